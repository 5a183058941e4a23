// In what order nats-server, QuestDB and Java are looked for, on machines made of folders.
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { create } from 'tar';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findNats } from '#local/nats.ts';
import { fetchArchive, isAtLeast, type Machine, Missing, withRemedy } from '#local/obtain.ts';
import { findJava, findQuestdb } from '#local/questdb.ts';

let home: string;
let machine: Machine;
let said: string[];

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'fleetreel-find-'));
  said = [];
  machine = {
    env: { PATH: join(home, 'bin') },
    home,
    root: false,
    report: (line) => said.push(line),
    download: () => Promise.reject(new Error('no network')),
  };
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

/** An executable shell script in the home folder. */
function program(path: string, script: string): string {
  const full = join(home, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, `#!/bin/sh\n${script}\n`);
  chmodSync(full, 0o755);
  return full;
}

test('nats-server is taken from PATH when it is recent enough', async () => {
  const path = program('bin/nats-server', 'echo "nats-server: v2.12.3"');
  expect(await findNats(machine)).toEqual({ path, from: `nats-server 2.12.3 on PATH (${path})` });
});

test('an old nats-server on PATH is passed over for the cache', async () => {
  program('bin/nats-server', 'echo "nats-server: v2.9.10"');
  const path = program('.cache/fleetreel/nats-server/nats-server', 'echo "nats-server: v2.15.0"');
  expect(await findNats(machine)).toMatchObject({ path });
});

test('XDG_CACHE_HOME moves the cache', async () => {
  const path = program('elsewhere/fleetreel/nats-server/nats-server', 'echo "nats-server: v2.15.0"');
  const env = { ...machine.env, XDG_CACHE_HOME: join(home, 'elsewhere') };
  expect(await findNats({ ...machine, env })).toMatchObject({ path });
});

test('without either, Go builds it into the cache', async () => {
  program(
    'bin/go',
    '[ "$1" = version ] && { echo "go version go1.26.0 linux/amd64"; exit; }\n' +
      'echo "echo nats-server: v2.15.2" > "$GOBIN/nats-server" && chmod +x "$GOBIN/nats-server"',
  );
  // The shell's own tools for the stand-in.
  const env = { PATH: `${machine.env.PATH}:/usr/bin:/bin` };
  const { path, from } = await findNats({ ...machine, env });
  expect(path).toBe(join(home, '.cache/fleetreel/nats-server/nats-server'));
  expect(existsSync(path)).toBe(true);
  expect(from).toContain('built with Go');
  expect(said.join('\n')).toMatch(/Fetching https.*\nBuilding nats-server .*\.\.\.\nBuilding nats-server .*: done in/);
});

test('a Go that is too old is named, and no package is promised to help', async () => {
  const go = program('bin/go', 'echo "go version go1.19.8 linux/amd64"');
  await expect(findNats(machine)).rejects.toMatchObject({
    message: expect.stringContaining(`the Go here (${go}, 1.19.8) can't build it: install 1.21 or newer`),
    packages: [],
  });
});

test('where a package helps, the command is named, and run only as root, once', async () => {
  const thing = join(home, 'bin/thing');
  const find = async () => {
    if (!existsSync(thing)) throw new Missing('Thing is missing.', ['thing']);
    return thing;
  };
  await expect(withRemedy(find, machine)).rejects.toThrow(/^Thing is missing\.$/);
  const log = join(home, 'apt.log');
  program('bin/apt-get', `echo "$@" >> ${log}; [ "$1" = install ] && [ -n "$WORKS" ] && echo > ${thing}; exit 0`);
  await expect(withRemedy(find, machine)).rejects.toThrow(
    'Thing is missing. This helps: sudo apt-get install -y thing',
  );
  expect(existsSync(log)).toBe(false);
  const root = { ...machine, root: true };
  await expect(withRemedy(find, root)).rejects.toThrow(/^Thing is missing\.$/);
  expect(readFileSync(log, 'utf8')).toBe('update -qq\ninstall -y -qq thing\n');
  expect(await withRemedy(find, { ...root, env: { ...machine.env, WORKS: '1' } })).toBe(thing);
  expect(said).toContain('Thing is missing. Installing it: apt-get install -y thing');
});

test('a released archive is kept only when it is the one that was released', async () => {
  const content = 'echo "nats-server: v2.15.0"';
  program('made/nats/nats-server', content);
  const file = join(home, 'archive.tar.gz');
  await create({ gzip: true, cwd: join(home, 'made'), file }, ['nats']);
  const archive = readFileSync(file);
  const online = { ...machine, download: () => Promise.resolve(new Response(new Uint8Array(archive))) };
  const target = join(home, 'cache', 'nats-server');
  const url = 'https://example.invalid/archive.tar.gz';
  const wrong = { url, checksum: '0'.repeat(64), member: 'nats/nats-server' };
  await expect(fetchArchive(wrong, target, online)).rejects.toThrow(/it has the SHA-256 [0-9a-f]{64} and not 0000/);
  expect(existsSync(target)).toBe(false);
  const checksum = createHash('sha256').update(archive).digest('hex');
  await fetchArchive({ ...wrong, checksum }, target, online);
  expect(readFileSync(target, 'utf8')).toContain(content);
});

test('Java is taken from JAVA_HOME before PATH, and an old one not at all', async () => {
  const old = program('old/bin/java', 'echo \'openjdk version "11.0.2" 2019-01-15\' >&2');
  const onPath = program('bin/java', 'echo \'openjdk version "17.0.15" 2025-04-15\' >&2');
  expect(await findJava({ ...machine, env: { ...machine.env, JAVA_HOME: join(home, 'old') } })).toBe(onPath);
  const named = program('new/bin/java', 'echo \'openjdk version "25" 2025-09-16\' >&2');
  expect(await findJava({ ...machine, env: { ...machine.env, JAVA_HOME: join(home, 'new') } })).toBe(named);
  expect(old).not.toBe(onPath);
});

test('a jar that is not the released one is left alone, and without Maven it is said what was tried', async () => {
  program('bin/java', 'echo \'openjdk version "17.0.15" 2025-04-15\' >&2');
  const jar = join(home, '.cache/fleetreel/questdb-9.3.4.jar');
  mkdirSync(dirname(jar), { recursive: true });
  writeFileSync(jar, 'something else');
  const failure = await findQuestdb(machine).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(Missing);
  expect(failure).toMatchObject({ message: expect.stringContaining('no Maven (mvn)'), packages: ['maven'] });
  expect(said).toEqual([`${jar} is not QuestDB 9.3.4 as it was released, and is left alone.`]);
});

test('versions are compared as numbers', () => {
  expect(isAtLeast([2, 12, 0], [2, 12])).toBe(true);
  expect(isAtLeast([2, 9, 10], [2, 12])).toBe(false);
  expect(isAtLeast([3], [2, 12])).toBe(true);
});
