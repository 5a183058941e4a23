// Writes `src/gen/`: the types of the tables and of the gRPC services. They are types only, so nothing needs them to run.
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('src/gen/', import.meta.url));
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

const { catalog, root } = await import('./src/catalog.ts');
const lines = [
  '// Made by generate.ts from the .proto files.',
  '',
  '/** The tables of a frame by name. */',
  'export type Tables = {',
  ...catalog.map(({ name, help }) => `  /** ${help} */\n  ${name}?: ${typeName(name)};`),
  '};',
  'export type TableName = keyof Tables;',
];
for (const { name, help, labels, fields } of catalog)
  lines.push(
    '',
    `/** ${help} */`,
    `export type ${typeName(name)} = {`,
    ...labels.map((label) => `  /** ${label.help} */\n  ${label.name}: string[];`),
    ...fields.map((field) => `  /** ${field.help} */\n  ${field.name}: number[];`),
    '};',
  );
for (const name of ['HostDescription', 'HostRefusal'])
  lines.push(
    '',
    `export type ${name} = {`,
    ...root
      .lookupType(`fleetreel.v1.${name}`)
      .fieldsArray.map((field) => `  /** ${field.comment} */\n  ${field.name}: ${memberType(field)};`),
    '};',
  );
writeFileSync(`${folder}tables.ts`, `${lines.join('\n')}\n`);

const bin = fileURLToPath(new URL('node_modules/.bin/proto-loader-gen-types', import.meta.url));
const services = ['query', 'live', 'replay', 'dead_letter', 'custom', 'audit', 'access', 'agents', 'enrolment'].map(
  (name) => `fleetreel/v1/${name}.proto`,
);
execFileSync(
  bin,
  [
    '--includeDirs=.',
    '--longs=Number',
    '--enums=String',
    '--defaults',
    '--arrays',
    '--objects',
    '--oneofs',
    '--keepCase',
    '--grpcLib=@grpc/grpc-js',
    `--outDir=${folder}`,
    '--targetFileExtension=.ts',
    '--importFileExtension=.ts',
    ...services,
  ],
  { cwd: import.meta.dirname, stdio: ['ignore', 'ignore', 'inherit'] },
);

/** 64-bit identities are hexadecimal text, other integers are within what a number holds exactly. */
function memberType({ map, repeated, type }: { map: boolean; repeated: boolean; type: string }): string {
  if (map) return 'Record<string, string>';
  const single = type === 'string' || type === 'fixed64' ? 'string' : 'number';
  return repeated ? `${single}[]` : single;
}

function typeName(table: string): string {
  return table.replace(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
