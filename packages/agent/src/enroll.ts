// An agent fetches its credentials for a code. Its seed is made here, and never leaves this machine.
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { ClaimedEnrolment, Problem } from '@fleetreel/proto/http';
import { credentialsText, KeyPair, readCredentials } from '@fleetreel/proto/nats_jwt';
import { SettingsError } from '@fleetreel/proto/settings';
import type { Settings } from '#config.ts';
import { enrolledPath } from '#enrolled.ts';
import { enrollAnswerMilliseconds } from '#limits.ts';
import { sentence } from '#telemetry.ts';

const variable = 'FLEETREEL_ENROLMENT_CODE';

/** Writes the credentials file and says so. @throws SettingsError, Error */
export async function enroll(
  settings: Settings,
  environment: Readonly<Record<string, string | undefined>>,
  stdin: AsyncIterable<Buffer>,
): Promise<string> {
  const address = addressOf(settings.enroll.url);
  const code = (environment[variable] ?? (await textOf(stdin))).trim();
  if (code === '') throw new SettingsError(`There is no code: give it on standard input, or in ${variable}.`);
  const path = settings.nats.credentials ?? enrolledPath(settings);
  // Before the code is used up.
  using file = prepare(path);
  const { publicKey, seed } = KeyPair.create('user');
  const { jwt, tenant, host, expires, natsUrl } = await claim(address, { code, publicKey });
  const text = credentialsText(jwt, seed);
  readCredentials(text);
  file.write(text);
  const until = expires === null ? 'until they are revoked' : `until ${new Date(expires).toISOString()}`;
  const uses =
    settings.nats.credentials === undefined
      ? 'from now on, one that runs under another name when it is started again'
      : `with nats.credentials: ${path}`;
  const where = natsUrl === null ? '' : `, NATS is at ${natsUrl} (nats.url)`;
  return `${path} has the credentials of ${host} (tenant ${tenant}), valid ${until}: the agent uses them ${uses}${where}`;
}

/** @throws SettingsError */
function addressOf(text: string | undefined): URL {
  if (text === undefined) throw new SettingsError('enroll.url is missing: where the collector is (--url).');
  const url = /^https?:\/\//.test(text) && URL.canParse(text) ? new URL('/api/v1/enrolments/claim', text) : undefined;
  if (url === undefined)
    throw new SettingsError(`enroll.url: ${text} is no address: write it as https://collector:7600.`);
  if (url.protocol === 'http:' && !/^(127(\.\d{1,3}){3}|\[::1\]|localhost)$/.test(url.hostname))
    throw new SettingsError(
      `enroll.url: over ${text} whoever listens could use the code first: give an address with https://.`,
    );
  return url;
}

/** What is written there so far, as a text. */
async function textOf(stream: AsyncIterable<Buffer>): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts).toString();
}

/** Makes room for the file, and tells how it is written: whole, readable by this user alone. @throws SettingsError */
function prepare(path: string): Disposable & { write(text: string): void } {
  const beside = `${path}.new`;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    writeFileSync(beside, '', { mode: 0o600 });
  } catch (cause) {
    throw new SettingsError(`nats.credentials: ${path} can't be written: ${sentence(cause)}.`, { cause });
  }
  return {
    write(text) {
      writeFileSync(beside, text);
      renameSync(beside, path);
    },
    [Symbol.dispose]: () => rmSync(beside, { force: true }),
  };
}

async function claim(url: URL, body: { code: string; publicKey: string }): Promise<ClaimedEnrolment> {
  let answer: Response;
  try {
    answer = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      redirect: 'error',
      signal: AbortSignal.timeout(enrollAnswerMilliseconds),
    });
  } catch (cause) {
    const inner = cause instanceof Error && cause.cause !== undefined ? cause.cause : cause;
    throw new Error(`The collector at ${url.origin} can't be asked: ${sentence(inner)}.`, { cause });
  }
  if (answer.ok) return (await answer.json()) as ClaimedEnrolment;
  const problem = (await answer.json().catch(() => undefined)) as Problem | undefined;
  throw new Error(problem?.detail ?? `The collector at ${url.origin} answered with ${answer.status}.`);
}
