import { existsSync } from 'node:fs';
import { isIP } from 'node:net';
import { defaultTenant } from '@fleetreel/proto';
import { milliseconds } from '@fleetreel/proto/duration';
import { Duration, natsAccessSettings, type Program, SettingsError } from '@fleetreel/proto/settings';
import Type, { type Static } from 'typebox';
import { isLoopback } from '#loopback.ts';
import manifest from '../package.json' with { type: 'json' };

const text = (fallback: string, description: string) => Type.String({ default: fallback, description });
const secret = (fallback: string, description: string) => Type.String({ default: fallback, description, secret: true });
const port = (fallback: number, description: string) =>
  Type.Integer({ default: fallback, minimum: 0, maximum: 65_535, description });
/** Servers of NATS, as they stand in a command line, too: nothing in them means something to a shell. */
const server = String.raw`(?:(?:nats|tls)://)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?`;
const serversPattern = `^${server}(?:,${server})*$`;
const wholeDays = 'a duration of whole days such as 30d';

const settings = Type.Object({
  nats: Type.Object({
    url: text('nats://127.0.0.1:4222', 'Where the log is; several servers of one cluster are separated by commas'),
    ...natsAccessSettings,
    issuer: Type.Optional(
      Type.String({
        minLength: 1,
        description: 'File of the keys with which agents are enrolled and revoked; absent: this collector does neither',
        examples: ['/etc/fleetreel/issuer.json'],
      }),
    ),
    agents_url: Type.Optional(
      Type.String({
        pattern: serversPattern,
        expects: 'addresses such as tls://nats.example.org:4222, separated by commas',
        description:
          'Where agents reach the log, as hosts are told when they are enrolled; absent: whoever enrols one has to know it',
        examples: ['tls://nats.example.org:4222'],
      }),
    ),
  }),
  questdb: Type.Object({
    http_url: text('http://127.0.0.1:9000', 'Where rows are written and tables made'),
    pg_host: text('127.0.0.1', 'Host of the PostgreSQL wire, where history is read'),
    pg_port: port(8812, 'Port of the PostgreSQL wire'),
    user: text('admin', 'User who writes rows and makes tables'),
    password: secret('', 'Password of that user'),
    read_user: text('user', 'User who reads history'),
    read_password: secret('', 'Password of that user'),
  }),
  http: Type.Object({
    host: text('127.0.0.1', 'Address of the HTTP face and the console; 0.0.0.0 is all of this machine'),
    port: port(7600, 'Port of the HTTP face; 0 takes a free one'),
    allowed_hosts: Type.Array(Type.String(), {
      default: [],
      examples: ['fleet.example.org,192.0.2.7'],
      description:
        'Names and addresses, besides those of loopback, by which browsers and programs address it: a request for another is refused',
    }),
    trusted_proxies: Type.Array(Type.String(), {
      default: [],
      examples: ['127.0.0.1,10.0.0.0/8'],
      description:
        'Addresses and networks of proxies in front of it, of HTTP and gRPC: what they say of a caller (X-Forwarded-For, X-Forwarded-Proto) is believed, of others it is not',
    }),
  }),
  grpc: Type.Object({
    host: text('127.0.0.1', 'Address of the gRPC face; 0.0.0.0 is all of this machine'),
    port: port(7601, 'Port of the gRPC face; 0 takes a free one'),
  }),
  tls: Type.Object({
    certificate: text('', 'File of the certificate of both faces, with its chain, PEM; without one they speak no TLS'),
    key: text('', 'File of its private key, PEM'),
  }),
  access: Type.Object({
    anonymous: Type.Union(
      (['none', 'viewer', 'admin'] as const).map((may) => Type.Literal(may)),
      {
        default: 'none',
        description:
          'What whoever brings no credentials may do: nothing, read and replay, or all; the last two on loopback only, and for callers of this machine',
      },
    ),
    owner_key: text(
      '',
      'File in which the collector keeps an API key for whoever runs this machine, an admin; where it is named, the link for the first admin is not logged but asked for with that key',
    ),
    owner_tenant: text(defaultTenant, 'The tenant of that key'),
    session: Duration('7d', { description: 'How long a session of a user lasts before a new sign-in' }),
    open_metrics: Type.Boolean({
      default: false,
      description:
        "Whether /metrics, the collector's own, is for whoever reaches the port; else it needs the right read",
    }),
  }),
  store: Type.String({
    default: 'main',
    pattern: '^[a-z0-9][a-z0-9_-]{0,31}$',
    expects: 'up to 32 lower-case letters, digits, "-" and "_"',
    description: 'Name of the store: collectors with one name share its work, another name is a replica of its own',
  }),
  partition: Type.String({
    default: '1/1',
    pattern: '^[1-9]\\d{0,2}/[1-9]\\d{0,2}$',
    expects: 'one of several parts such as 2/4, of 999 at most',
    description:
      'Which part of the hosts this collector stores and serves: 2/4 is the second of four; 1/1 is all of them',
  }),
  log: Type.Object({
    age: Duration('72h', { description: 'How long the log keeps frames' }),
    bytes: Type.Integer({
      default: 10 * 1024 ** 3,
      minimum: 16 * 1024 ** 2,
      description: 'How much the log keeps, in bytes; the oldest go first',
    }),
    replicas: Type.Integer({
      default: 1,
      enum: [1, 3, 5],
      expects: '1, 3 or 5',
      description: 'On how many servers of a NATS cluster the log is kept; may be changed while it is used',
    }),
  }),
  retention: Type.Object({
    raw: Type.String({
      default: '30d',
      pattern: '^[1-9]\\d{0,3}d$',
      expects: wholeDays,
      description: 'How long the store keeps rows at full resolution, in whole days',
    }),
  }),
  custom: Type.Object({
    rate: Type.Integer({
      default: 20_000,
      minimum: 1,
      maximum: 10_000_000,
      description:
        'Measures and events that one key may write a second through this collector; ten times as many at once after a pause',
    }),
    bytes: Type.Integer({
      default: 4 * 1024 * 1024,
      minimum: 1024,
      maximum: 1024 ** 3,
      description:
        'Bytes of them that one key may write a second through this collector, as they are in the log; ten times as many at once after a pause, and 32 MiB in any case. What is written takes its part of log.bytes',
    }),
    names: Type.Integer({
      default: 10_000,
      minimum: 1,
      maximum: 1_000_000,
      description: 'Different names, and metadata keys of each name, that one key may write within an hour',
    }),
  }),
  rebuild: Type.Object({
    from: text(
      'beginning',
      'Where in the log a rebuild begins: a time such as 2026-11-21T12:00:00Z, or how long ago, such as 24h',
    ),
  }),
  link: Type.Object({
    tenant: text(defaultTenant, 'The tenant of which the link makes an admin; a tenant begins with its first'),
    user: text('', 'The user whose password the link sets instead'),
  }),
  stores: Type.Object({
    remove: text('', 'The store that the command stores makes the log forget; its rows stay in QuestDB'),
  }),
  console: Type.Optional(
    Type.String({ description: 'Folder of the built console; absent: the one beside the program' }),
  ),
  logging: Type.Object({
    level: Type.Union(
      (['trace', 'debug', 'info', 'warn', 'error'] as const).map((level) => Type.Literal(level)),
      { default: 'info', description: 'Least severe line that is logged' },
    ),
  }),
});

export type Settings = Readonly<Static<typeof settings>>;

/** What the collector is called, can do and can be told. */
export const program = {
  name: 'fleetreel-collector',
  version: manifest.version,
  summary: 'Reads frames from the log, writes them to the store and serves them, live and historical',
  commands: {
    run: 'Collect and serve until it is stopped',
    rebuild:
      'Fill a store from the log, while agents and collectors go on, and verify that it holds what the log holds',
    stores: 'List the stores that read the log, and how far each is behind',
    link: 'Print a one-time link by which an admin is made, or with --user a password set',
    check: 'Say whether the settings are right and NATS and QuestDB can be reached',
  },
  own: { rebuild: 'rebuild-', stores: 'stores-', link: 'link-' },
  settings,
} satisfies Program<typeof settings>;

/** Days that rows are kept at full resolution. */
export const rawDays = ({ retention }: Settings): number => milliseconds(retention.raw) / 86_400_000;

/** The part of the hosts that is stored and served. */
export function partitionOf(checked: Settings): { number: number; of: number } {
  const [number = 1, of = 1] = checked.partition.split('/').map(Number);
  return { number, of };
}

/** What the store is called in the log: a part has a place of its own there, of a name that `store` can't have. */
export function placeOf(checked: Settings): string {
  const { number, of } = partitionOf(checked);
  return of === 1 ? checked.store : `${checked.store}@${number}-of-${of}`;
}

const isOwn = (host: string): boolean => host === 'localhost' || isLoopback(host);

/** Whether it is an address, alone or with how many of its bits are the network's. */
function isNetwork(text: string): boolean {
  const [address = '', bits, ...more] = text.split('/');
  const most = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1;
  return more.length === 0 && most > 0 && (bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= most));
}

/** What the faces listen on that other machines reach too. */
export const openFaces = (checked: Settings): string[] =>
  (['http', 'grpc'] as const).filter((face) => !isOwn(checked[face].host)).map((face) => `${face}.host`);

/** Where the console is, as a browser on this machine or, if it is named, on another reaches it. */
export function consoleUrl({ http, tls }: Settings, bound = http.port): string {
  const named = /^(?:0\.0\.0\.0|::)$/.test(http.host) ? (http.allowed_hosts[0] ?? 'localhost') : http.host;
  const scheme = tls.certificate === '' ? 'http' : 'https';
  return `${scheme}://${named.includes(':') ? `[${named}]` : named}:${bound}`;
}

/**
 * Refuses what the schema alone can't see.
 * @throws SettingsError
 */
export function checkSettings(checked: Settings): void {
  for (const face of ['http', 'grpc'] as const)
    if (checked.access.anonymous !== 'none' && !isOwn(checked[face].host))
      throw new SettingsError(
        `access.anonymous: ${String(checked.access.anonymous)} is for loopback only, and ${face}.host is ${checked[face].host}: whoever reaches it could use it. Leave access.anonymous out, and sign in.`,
      );
  if ((checked.tls.certificate === '') !== (checked.tls.key === ''))
    throw new SettingsError('tls: tls.certificate and tls.key belong together, and one of them is missing.');
  for (const proxy of checked.http.trusted_proxies)
    if (!isNetwork(proxy))
      throw new SettingsError(
        `http.trusted_proxies: ${proxy} is neither an address nor a network: write it as 192.0.2.7 or 10.0.0.0/8.`,
      );
  const { number, of } = partitionOf(checked);
  if (number > of)
    throw new SettingsError(`partition: ${checked.partition} there is not: of ${of} parts the last is ${of}/${of}.`);
  if (!URL.canParse(checked.questdb.http_url) || !/^https?:/.test(checked.questdb.http_url))
    throw new SettingsError(
      `questdb.http_url: ${checked.questdb.http_url} is no address: write it as http://127.0.0.1:9000.`,
    );
  if (checked.console !== undefined && !existsSync(checked.console))
    throw new SettingsError(
      `console: the folder ${checked.console} does not exist: name the one of a built console, or leave the setting out.`,
    );
}
