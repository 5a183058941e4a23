import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { CommandReader, redacted, splitCommand } from '#commands.ts';

const secret = 'sw0rdf1sh';

// Each has the secret once or more, and has to keep what is left of it.
test.each([
  [['mysqld', `--password=${secret}`], 'mysqld --password=***'],
  [['tool', '--password', secret, '--verbose'], 'tool --password *** --verbose'],
  [['tool', '-password', secret], 'tool -password ***'],
  [['tool', '--db-pass', `${secret} with spaces`, 'x'], 'tool --db-pass *** x'],
  [['tool', '--token', '--verbose'], 'tool --token --verbose'],
  [
    ['tool', `--api-key=${secret}`, `--apikey=${secret}`, `--key=${secret}`],
    'tool --api-key=*** --apikey=*** --key=***',
  ],
  [['tool', `--auth=${secret}`, '--author=me'], 'tool --auth=*** --author=me'],
  [['tool', `--client-secret:${secret}`], 'tool --client-secret:***'],
  [['env', `AWS_SECRET_ACCESS_KEY=${secret}`, 'PATH=/bin', 'run'], 'env AWS_SECRET_ACCESS_KEY=*** PATH=/bin run'],
  [
    ['java', `-Djavax.net.ssl.keyStorePassword=${secret}`, '-Xmx1G'],
    'java -Djavax.net.ssl.keyStorePassword=*** -Xmx1G',
  ],
  [['psql', `postgres://app:${secret}@db:5432/app?sslmode=require`], 'psql postgres://***@db:5432/app?sslmode=require'],
  [['psql', `postgres://app:a@${secret}@db/app`], 'psql postgres://***@db/app'],
  [['git', 'clone', `https://${secret}@github.com/a/b`], 'git clone https://***@github.com/a/b'],
  [['curl', `https://x.org/?api_key=${secret}&page=2`], 'curl https://x.org/?api_key=***&page=2'],
  [['curl', '-H', `Authorization: Bearer ${secret}`, 'https://x'], 'curl -H Authorization: *** https://x'],
  [['curl', `-HX-Api-Key: ${secret}`, 'https://x'], 'curl -HX-Api-Key: *** https://x'],
  [['curl', '-u', `me:${secret}`, 'https://x'], 'curl -u *** https://x'],
  [['curl', `-ume:${secret}`, 'https://x'], 'curl -u*** https://x'],
  [['curl', '-d', `{"user":"me","password":"${secret}","a":1}`], 'curl -d {"user":"me","password":"***","a":1}'],
  [['curl', '-d', `{"user": "me", "password": "${secret}"}`], 'curl -d {"user": "me", "password": ***'],
  [['/usr/bin/mysql', `-p${secret}`, '-u', 'root'], '/usr/bin/mysql -p*** -u root'],
  [['mysql', '-p', secret, 'db'], 'mysql -p *** db'],
  [['sudo', 'mysqldump', `-p${secret}`, 'db'], 'sudo mysqldump -p*** db'],
  [['sh', '-c', `mysql -p${secret} db && echo done`], 'sh -c mysql -p*** db && echo done'],
  [['bash', '-c', `PGPASSWORD=${secret} psql -h db`], 'bash -c PGPASSWORD=*** psql -h db'],
  [['bash', '-c', `run --password '${secret} and more' --x`], 'bash -c run --password *** --x'],
  [
    ['bash', '-c', `curl -H "Authorization: Bearer ${secret}" https://x`],
    'bash -c curl -H "Authorization: ***" https://x',
  ],
  [['sshpass', '-p', secret, 'ssh', '-p', '22', 'host'], undefined],
  [['docker', 'login', '-u', 'me', '-p', secret], 'docker login -u me -p ***'],
  [['redis-cli', '-a', secret, 'info'], 'redis-cli -a *** info'],
  [['redis-server', '--requirepass', secret], 'redis-server --requirepass ***'],
  [['tool', 'ghp_abcdefghijklmnopqrstuvwxyz0123456789', `--password=${secret}`], 'tool *** --password=***'],
  [['tool', '--model', 'x', 'sk-proj-abcdefghijklmnop1234', `--pwd=${secret}`], 'tool --model x *** --pwd=***'],
  [
    ['x', 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9', `token=${secret}`],
    'x *** token=***',
  ],
  [['openssl', '-passin', `pass:${secret}`], 'openssl -passin ***'],
  [['tool', `--connection-string=Server=db;Password=${secret};Port=1`], undefined],
  [['cmd.exe', `/password:${secret}`], 'cmd.exe /password:***'],
  [['postgres: app me', `password ${secret}`].slice(0, 1).concat(`pass=${secret}`), 'postgres: app me pass=***'],
])('no secret of %j is shown', (words, expected) => {
  const shown = redacted(words);
  expect(shown).not.toContain(secret);
  if (expected !== undefined) expect(shown).toBe(expected);
});

test.each([
  [['nginx:', 'master', 'process', '/usr/sbin/nginx'], 'nginx: master process /usr/sbin/nginx'],
  [['vllm', 'serve', '--max-num-batched-tokens', '8192'], undefined],
  [['docker', 'run', '-p', '80:80', 'nginx'], 'docker run -p 80:80 nginx'],
  [['ssh', '-p', '22', 'host'], 'ssh -p 22 host'],
  [['mkdir', '-p', '/a/b'], 'mkdir -p /a/b'],
  [['bash', '-c', 'echo   a\n\tb'], 'bash -c echo a b'],
  [['tool', '--compass=north', '--passive', '--monkey=1'], 'tool --compass=*** --passive --monkey=1'],
  [['a', '', 'b'], 'a  b'],
  [[], ''],
  [['"; rm -rf / #', '$(reboot)', '\u001b[31m'], '"; rm -rf / # $(reboot) \u001b[31m'],
])('what is no secret stays: %j', (words, expected) => {
  if (expected !== undefined) expect(redacted(words)).toBe(expected);
});

test('a hostile command line takes no longer than a short one by much', () => {
  const hostile = ['a=', '"a":', 'a:', '://', '-p', "'", 'password=', 'eyJ.', 'x://x@', '--key ', '{"'].map((part) =>
    part.repeat(Math.ceil(4096 / part.length)),
  );
  const begin = process.cpuUsage();
  for (const word of hostile) {
    redacted(['x', word]);
    redacted(['mysql', `${word} ${word}`]);
  }
  const { user, system } = process.cpuUsage(begin);
  expect(user + system).toBeLessThan(3_000_000);
});

test('the words of a command line as the kernel has it', () => {
  expect(splitCommand('a\0b c\0\0')).toEqual(['a', 'b c', '']);
  expect(splitCommand('nginx: worker')).toEqual(['nginx: worker']);
  expect(splitCommand('\0')).toEqual(['']);
  expect(splitCommand('')).toEqual([]);
});

function tree(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-commands-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
}

test('command lines are read, of those that are there', async () => {
  const proc = tree();
  mkdirSync(join(proc, '1'));
  writeFileSync(join(proc, '1/cmdline'), `a\0${'b'.repeat(10_000)}\0`);
  const reader = new CommandReader(proc);
  const [words, none] = await Promise.all([reader.words(1), reader.words(2)]);
  expect(words).toEqual(['a', 'b'.repeat(4094)]);
  expect(none).toEqual([]);
});

test('one that hangs is given up, keeps nobody else for long, and those after it come when it is back', async () => {
  const proc = tree();
  for (const pid of ['1', '2']) mkdirSync(join(proc, pid));
  // A pipe that nobody writes to, as a process whose memory is locked.
  execFileSync('mkfifo', [join(proc, '1/cmdline')]);
  const writer = openSync(join(proc, '1/cmdline'), 'r+');
  onTestFinished(() => closeSync(writer));
  writeFileSync(join(proc, '2/cmdline'), 'fine\0');
  const reader = new CommandReader(proc);
  expect(await Promise.all([reader.words(1), reader.words(2), reader.words(2)])).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
  expect(reader.hanging).toBe(1);
  expect(await reader.words(2)).toBeUndefined();
  writeSync(writer, 'late\0');
  await expect.poll(() => reader.hanging).toBe(0);
  expect(await reader.words(2)).toEqual(['fine']);
});
