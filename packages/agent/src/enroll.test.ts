import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { readSettings } from '@fleetreel/proto/settings';
import { afterAll, expect, test } from 'vitest';
import { program, type Settings } from '#config.ts';
import { enroll } from '#enroll.ts';

const folder = mkdtempSync(join(tmpdir(), 'fleetreel-enroll-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function settings(...flags: string[]): Settings {
  const read = readSettings(program, ['enroll', '--data', folder, ...flags], {});
  if ('help' in read) throw new Error('help');
  return read.settings;
}
const code = 'default:abcdefghijklmnopqrstuvwxyz0';
const said = (flags: string[], input = code, environment: Record<string, string> = {}) =>
  enroll(settings(...flags), environment, Readable.from(input === '' ? [] : [Buffer.from(input)])).catch(
    (cause: Error) => cause.message,
  );
/** Where nobody listens. */
const nobody = 'http://127.0.0.1:1';

test('what is wrong is said before the code is used, and without the code', async () => {
  expect(await said([])).toMatch(/^enroll\.url is missing/);
  expect(await said(['--url', 'collector:7600'])).toMatch(/write it as https:\/\/collector:7600/);
  expect(await said(['--url', 'http://192.0.2.1:7600'])).toMatch(/whoever listens could use the code first/);
  expect(await said(['--url', nobody], '')).toMatch(/^There is no code: give it on standard input, or in FLEETREEL_/);
  writeFileSync(join(folder, 'file'), '');
  const inside = join(folder, 'file', 'x.creds');
  expect(await said(['--url', nobody, '--nats-credentials', inside])).toMatch(
    /^nats\.credentials: \S+ can't be written/,
  );
  for (const environment of [{}, { FLEETREEL_ENROLMENT_CODE: code }])
    expect(await said(['--url', nobody], code, environment)).toMatch(
      /^The collector at http:\/\/127\.0\.0\.1:1 can't be asked/,
    );
  // Nothing is left of it.
  expect(readdirSync(folder)).toEqual(['file']);
});
