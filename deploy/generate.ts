// Writes docs/reference from the settings' schemas, the error catalogue and the contracts.
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { catalog } from '@fleetreel/proto';
import { errors } from '@fleetreel/proto/errors';
import { reference } from '@fleetreel/proto/settings';
import { program as agent } from '../packages/agent/src/config.ts';
import { program as collector } from '../packages/collector/src/config.ts';

const root = join(import.meta.dirname, '..');
const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('<', '&lt;');

/** The reference pages: path from the root -> content. */
export async function pages(): Promise<Record<string, string>> {
  return {
    'docs/reference/agent.md': reference(agent),
    'docs/reference/collector.md': reference(collector),
    'docs/reference/metrics.md': metrics(),
    'docs/reference/errors.md': errorPage(),
  };
}

function metrics(): string {
  const lines = [
    '# Metrics',
    '',
    'Every table with its labels and fields. All tables have the columns `ts`, `tenant` and `host` besides. A value that is not',
    'available is NULL in the store and `null` in JSON. The unit is the ending of the name.',
  ];
  for (const { name, help, labels, fields } of catalog) {
    lines.push('', `## ${name}`, '', help, '', '| column | kind | meaning |', '| --- | --- | --- |');
    for (const label of labels)
      lines.push(`| \`${label.name}\` | ${label.key ? 'key' : 'label'} | ${cell(label.help)} |`);
    for (const field of fields) lines.push(`| \`${field.name}\` | ${field.unit} | ${cell(field.help)} |`);
  }
  return `${lines.join('\n')}\n`;
}

function errorPage(): string {
  const rows = Object.entries(errors).map(
    ([code, { http, grpc, title, action }]) => `| \`${code}\` | ${http} | ${grpc} | ${cell(title)} | ${cell(action)} |`,
  );
  return [
    '# Errors',
    '',
    'Over HTTP an error is a problem document (RFC 9457) whose `code` stands here; over gRPC a status whose message is the same',
    'sentence. A code is never used again for something else.',
    '',
    '| code | HTTP | gRPC | what | what to do |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
    '',
  ].join('\n');
}

if (import.meta.main)
  for (const [path, content] of Object.entries(await pages())) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
