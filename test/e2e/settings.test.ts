// Whoever writes a setting wrong reads one sentence that says what, where and what to do, and never a stack trace.

import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type NatsServer, startNats } from '../servers/nats.ts';
import { freePort } from '../servers/program.ts';
import { endOf, programs, startWithin } from '../stack.ts';

const folder = mkdtempSync(join(tmpdir(), 'fleetreel-settings-'));
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
/** A machine without an identity: the agent has to keep one of its own. */
const anonymous = [
  'unshare',
  '--mount',
  'sh',
  '-c',
  '[ ! -d /var/lib/dbus ] || mount -t tmpfs none /var/lib/dbus; exec "$@"',
  'sh',
];
const bare = join(folder, 'etc');
mkdirSync(bare);
/** A folder that nobody can make, root neither: its parent is a file. */
const unwritable = join(file('file', ''), 'folder');

let nats: NatsServer;
let nobody: string;
let taken: Server;
let takenPort: string;

beforeAll(async () => {
  nats = await startNats();
  nobody = `127.0.0.1:${await freePort()}`;
  taken = createServer();
  taken.listen(0, '127.0.0.1');
  await once(taken, 'listening');
  takenPort = String((taken.address() as { port: number }).port);
});

afterAll(async () => {
  taken?.close();
  await nats?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

type Case = {
  what: string;
  /** Made when the test runs: servers have their addresses by then. */
  args: () => string[];
  environment?: Record<string, string>;
  /** A command that starts it. */
  within?: readonly string[];
  says: () => RegExp;
  /** 2, unless the settings are right and something else is not there. */
  code?: number;
};

const agent: Case[] = [
  {
    what: 'no command',
    args: () => [],
    says: () => /needs a command: run, /,
  },
  {
    what: 'an unknown command',
    args: () => ['rnu'],
    says: () => /no command "rnu".*Did you mean "run"/,
  },
  {
    what: 'an unknown flag',
    args: () => ['run', '--intervall', '5s'],
    says: () => /no flag --intervall.*Did you mean "--interval"/,
  },
  {
    what: 'an unknown key in the file',
    args: () => ['run', '--config', file('key.yaml', 'nats:\n  ulr: nats://127.0.0.1:4222\n')],
    says: () => /no setting "nats\.ulr" \(in .*key\.yaml\).*Did you mean "nats\.url"/,
  },
  {
    what: 'a wrong type in the file',
    args: () => ['run', '--config', file('type.yaml', 'interval: [5]\n')],
    says: () => /interval: \[5\] \(in .*type\.yaml\) is not a duration/,
  },
  {
    what: 'a file that is not YAML',
    args: () => ['run', '--config', file('broken.yaml', 'host: a\nnats: {url\n')],
    says: () => /broken\.yaml is not YAML, line \d/,
  },
  {
    what: 'a file that is not there',
    args: () => ['run', '--config', join(folder, 'absent.yaml')],
    says: () => /absent\.yaml can't be read: it does not exist/,
  },
  {
    what: 'a wrong type in the environment',
    args: () => ['run'],
    environment: { FLEETREEL_INTERVAL: 'often' },
    says: () => /interval: often \(in the environment variable FLEETREEL_INTERVAL\) is not a duration/,
  },
  {
    what: 'an interval that is too short',
    args: () => ['run', '--interval', '100ms'],
    says: () => /interval.*100ms.*1s.*300s/,
  },
  {
    what: 'a host that can not be a name',
    args: () => ['run', '--host', 'a b'],
    says: () => /host.*"?a b"?.*letters/,
  },
  {
    what: 'a source that does not exist',
    args: () => ['run', '--sources-disable', 'memroy'],
    says: () => /sources\.disable.*memroy.*memory/,
  },
  {
    what: 'a folder that can not be written',
    args: () => ['run', '--nats-url', nats.url, '--roots-etc', bare, '--data', unwritable],
    within: anonymous,
    says: () => new RegExp(`^fleetreel-agent: data: .*${unwritable}`),
  },
  {
    what: 'a server that does not answer, asked by check',
    args: () => ['check', '--nats-url', `nats://${nobody}`],
    says: () => new RegExp(`nats.*${nobody}`, 'i'),
  },
  {
    what: 'a server of language models with a port that does not exist',
    args: () => ['run', '--llm-servers', 'http://127.0.0.1:8000,127.0.0.1:99999'],
    says: () => /llm\.servers: 127\.0\.0\.1:99999 is no address/,
  },
  {
    what: 'llm-proxy on an address that is not loopback',
    args: () => ['llm-proxy', '--listen', '0.0.0.0:0'],
    says: () => /llm\.proxy\.listen: 0\.0\.0\.0:0 is not a loopback address.*allow_remote/,
  },
  {
    what: 'llm-proxy on a port in use',
    args: () => ['llm-proxy', '--listen', `127.0.0.1:${takenPort}`],
    says: () => new RegExp(`llm\\.proxy\\.listen: 127\\.0\\.0\\.1:${takenPort} is in use`),
  },
  {
    what: 'llm-proxy in front of what is no address',
    args: () => ['llm-proxy', '--upstream', 'https://127.0.0.1:11434'],
    says: () => /llm\.proxy\.upstream: https:.* is not an address such as http:/,
  },
];

const collector: Case[] = [
  {
    what: 'an unknown key in the file',
    args: () => ['run', '--config', file('collector.yaml', 'questdb:\n  pg_prot: 8812\n')],
    says: () => /no setting "questdb\.pg_prot".*Did you mean "questdb\.pg_port"/,
  },
  {
    what: 'a wrong type',
    args: () => ['run', '--http-port', 'many'],
    says: () => /http\.port: many \(in the flag --http-port\) is not a whole number/,
  },
  {
    what: 'a number out of range in the environment',
    args: () => ['run'],
    environment: { FLEETREEL_GRPC_PORT: '70000' },
    says: () => /grpc\.port: 70000 .*FLEETREEL_GRPC_PORT.* is not a whole number from 0 to 65535/,
  },
  {
    what: 'rights for whoever comes over HTTP from another machine',
    args: () => ['run', '--http-host', '0.0.0.0', '--access-anonymous', 'viewer'],
    says: () => /access\.anonymous: viewer is for loopback only, and http\.host is 0\.0\.0\.0/,
  },
  {
    what: 'rights for whoever comes over gRPC from another machine',
    args: () => ['check', '--grpc-host', '::', '--access-anonymous', 'admin'],
    says: () => /access\.anonymous: admin is for loopback only, and grpc\.host is ::/,
  },
  {
    what: 'a proxy that is no address',
    args: () => ['check', '--http-trusted-proxies', '127.0.0.1,10.0.0.0/33'],
    says: () => /http\.trusted_proxies: 10\.0\.0\.0\/33 is neither an address nor a network/,
  },
  {
    what: 'a certificate without its key',
    args: () => ['run', '--tls-certificate', file('certificate.pem', 'x')],
    says: () => /tls\.certificate and tls\.key belong together/,
  },
  {
    what: 'a certificate that is none',
    args: () => ['run', '--tls-certificate', file('no.pem', 'x'), '--tls-key', file('no.key', 'x')],
    says: () => /tls: .* are no certificate with its key/,
  },
  {
    what: 'an HTTP port in use',
    args: () => ['run', '--nats-url', nats.url, '--http-port', takenPort, '--grpc-port', '0'],
    says: () => new RegExp(`http\\.port: ${takenPort} on 127\\.0\\.0\\.1 is in use`),
  },
  {
    what: 'a gRPC port in use',
    args: () => ['run', '--nats-url', nats.url, '--http-port', '0', '--grpc-port', takenPort],
    says: () => new RegExp(`grpc\\.port: ${takenPort} on 127\\.0\\.0\\.1 is in use`),
  },
  {
    what: 'a folder of the console that is none',
    args: () => ['run', '--nats-url', nats.url, '--http-port', '0', '--grpc-port', '0', '--console', unwritable],
    says: () => new RegExp(`console.*${unwritable}`),
  },
  {
    what: 'NATS that does not answer, asked by check',
    args: () => ['check', '--nats-url', `nats://${nobody}`],
    says: () => new RegExp(`nats.*${nobody}`, 'i'),
  },
  {
    what: 'QuestDB that does not answer, asked by check',
    args: () => ['check', '--nats-url', nats.url, '--questdb-http-url', `http://${nobody}`],
    says: () => new RegExp(`questdb.*${nobody}`, 'i'),
  },
];

const cli: Case[] = [
  {
    what: 'an unknown command',
    args: () => ['hots'],
    says: () => /no command "?hots"?.*hosts/,
  },
  {
    what: 'an unknown flag',
    args: () => ['hosts', '--jsno'],
    says: () => /no flag "?--jsno"?.*--json/,
  },
  {
    what: 'a collector that does not answer',
    args: () => ['hosts', '--address', nobody],
    says: () => new RegExp(`No collector answers at ${nobody}`),
    code: 1,
  },
  {
    what: 'up with a folder that can not be written',
    args: () => ['up', '--data', unwritable],
    says: () => new RegExp(unwritable),
  },
  {
    what: 'up with a port in use',
    args: () => ['up', '--data', join(folder, 'data'), '--http-port', takenPort],
    says: () => new RegExp(`${takenPort}.*${process.pid}`),
  },
];

for (const [name, entry, cases] of [
  ['agent', programs.agent, agent],
  ['collector', programs.collector, collector],
  ['command', programs.cli, cli],
] as const)
  describe(name, () => {
    for (const { what, args, environment, within = [], says, code: expected = 2 } of cases)
      test(`${what}: one sentence, code ${expected}`, async () => {
        const { code, output } = await endOf(await startWithin(within, entry, args(), environment));
        expect(output).not.toMatch(/^\s+at /m);
        // `check` and `up` also say what is right, and a log may have begun.
        const lines = output.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
        if (!/^(check|up)$/.test(args()[0] ?? '')) expect(lines, output).toHaveLength(1);
        const sentence = lines.find((line) => says().test(line));
        expect(sentence, output).toMatch(/[.?]$/);
        expect(code, output).toBe(expected);
      });
  });
