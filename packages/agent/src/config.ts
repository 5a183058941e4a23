import { namePattern } from '@fleetreel/proto';
import { intervalMilliseconds, pushable, uploadMillisecondsMax } from '@fleetreel/proto/agent_settings';
import { milliseconds } from '@fleetreel/proto/duration';
import { Duration, natsAccessSettings, type Program, SettingsError } from '@fleetreel/proto/settings';
import Type, { type Static } from 'typebox';
import { withScheme } from '#llm/endpoint.ts';
import { name, version } from '#program.ts';

const root = (fallback: string, what: string) => Type.String({ default: fallback, description: `Folder of ${what}` });

/** A setting that can be pushed, too, as its description says it. */
const said = ({ description, examples }: { description: string; examples: readonly string[] }) => ({
  description,
  examples: [...examples],
});

const settings = Type.Object({
  host: Type.Optional(
    Type.String({
      pattern: namePattern,
      expects: 'a name of letters, digits, "-", "_" and "."',
      description: "Name of this host, unique within the tenant; absent: the system's host name",
    }),
  ),
  tenant: Type.String({
    pattern: namePattern,
    expects: 'a name of letters, digits, "-", "_" and "."',
    default: 'default',
    description: 'Whose host this is',
  }),
  machine_id: Type.Optional(
    Type.String({
      pattern: '^[A-Za-z0-9-]{8,64}$',
      expects: '8 to 64 letters, digits and "-"',
      description: "The machine's identity; absent: /etc/machine-id",
    }),
  ),
  interval: Duration('5s', said(pushable.interval)),
  upload_interval: Duration('0s', said(pushable.upload_interval)),
  tags: Type.Record(Type.String(), Type.String(), {
    default: {},
    description: 'Tags of this host',
    examples: ['rack=a3,role=web'],
  }),
  nats: Type.Object({
    url: Type.String({
      default: 'nats://127.0.0.1:4222',
      minLength: 1,
      description: 'Where the log is; several servers of one cluster are separated by commas',
    }),
    ...natsAccessSettings,
    credentials: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          'Credentials file by which NATS knows this program; absent: nats.creds in the folder of data, which enroll writes, if it is there',
        examples: ['/etc/fleetreel/nats.creds'],
      }),
    ),
  }),
  enroll: Type.Object({
    url: Type.Optional(
      Type.String({
        minLength: 1,
        description: 'Where the collector is that gives credentials for a code',
        examples: ['https://collector:7600'],
      }),
    ),
  }),
  sources: Type.Object({
    disable: Type.Array(Type.String(), {
      default: [],
      description: 'Sources that are not read',
      examples: ['tcp_connection,clock'],
    }),
  }),
  process: Type.Object({
    top: Type.Integer({
      default: 15,
      minimum: 1,
      maximum: 500,
      description: 'Processes that are shown by each of CPU, memory and I/O',
    }),
    rules: Type.Optional(
      Type.String({
        description: 'YAML file of rules that classify processes; they come before those that are shipped',
        examples: ['/etc/fleetreel/classes.yaml'],
      }),
    ),
    commands: Type.Boolean({
      default: false,
      description: 'Record command lines, with what looks like a secret left out',
    }),
  }),
  container: Type.Object({
    labels: Type.Array(Type.String(), {
      default: [],
      ...said(pushable['container.labels']),
    }),
    sockets: Type.Array(Type.String(), {
      default: [
        'docker.sock',
        'podman/podman.sock',
        'user/*/docker.sock',
        'user/*/podman/podman.sock',
        'containerd/containerd.sock',
        'k3s/containerd/containerd.sock',
        'crio/crio.sock',
      ],
      description:
        'Sockets of Docker, Podman, containerd and CRI-O, below the folder of run-time files or absolute; "*" is any one folder',
      examples: ['docker.sock,/var/run/other/docker.sock'],
    }),
  }),
  vm: Type.Object({
    uri: Type.String({
      default: 'qemu:///system',
      description: 'Where libvirt is, on this machine; empty: libvirt is not asked',
      examples: ['qemu:///session', 'qemu+unix:///system?socket=/run/libvirt/libvirt-sock'],
    }),
    qmp: Type.Array(Type.String(), {
      default: [],
      description: 'QMP sockets of QEMU, besides those that are found on the command lines of its processes',
      examples: ['/run/vm/build.qmp'],
    }),
  }),
  gpu: Type.Object({
    library: Type.String({
      default: 'libnvidia-ml.so.1',
      description: 'The library of NVIDIA that is asked for its GPUs',
    }),
    nvidia_smi: Type.String({
      default: 'nvidia-smi',
      description: 'The program that is asked where the library of NVIDIA is missing or fails',
    }),
  }),
  llm: Type.Object({
    servers: Type.Array(Type.String({ pattern: '^(https?://)?[^/\\s]+/?$' }), {
      expects: 'a list of addresses such as http://127.0.0.1:8000',
      default: [],
      description: 'Addresses of servers of language models, besides those that are found on this host',
      examples: ['http://127.0.0.1:8000'],
    }),
    session_gap: Duration('5m', {
      description: 'Pause between two requests that ends a session of a language model, at least 10s',
      examples: ['1m'],
    }),
    proxy: Type.Object({
      upstream: Type.String({
        default: 'http://127.0.0.1:11434',
        pattern: '^(http://)?[^/\\s]+/?$',
        expects: 'an address such as http://127.0.0.1:11434',
        description: 'The server of language models that llm-proxy forwards to',
      }),
      listen: Type.String({
        default: '127.0.0.1:11435',
        pattern: '^(\\[[0-9A-Fa-f:.]+\\]|[^:\\s\\[\\]]+):\\d{1,5}$',
        expects: 'an address and a port such as 127.0.0.1:11435',
        description: 'Where llm-proxy listens: a loopback address, unless allow_remote is set',
      }),
      allow_remote: Type.Boolean({
        default: false,
        description:
          'Lets llm-proxy listen beyond loopback. It asks nobody for a password: whoever reaches it may use the models',
      }),
    }),
  }),
  roots: Type.Object({
    proc: root('/proc', 'the proc file system'),
    sys: root('/sys', 'the sys file system'),
    etc: root('/etc', "the system's configuration"),
    run: root('/run', 'run-time files'),
  }),
  queue: Type.Object({
    frames: Type.Integer({
      default: 17_280,
      minimum: 1,
      description: 'Frames that are kept while the log does not take them; the oldest go first',
    }),
    bytes: Type.Integer({
      default: 32 * 1024 * 1024,
      minimum: 1024 * 1024,
      description: 'Bytes of frames that are kept while the log does not take them; the oldest go first',
    }),
  }),
  spool: Type.Object({
    bytes: Type.Integer({
      default: 256 * 1024 * 1024,
      minimum: 64 * 1024,
      description: 'Bytes on disk for frames that the log does not take; the oldest go first',
    }),
    age: Duration('24h', {
      description: 'How long frames are kept on disk for the log to take them',
      examples: ['72h'],
    }),
    sync: Duration('1s', {
      description:
        'How long after a frame was written it is synced to the disk; 0s: at once. It survives the end of the agent at any rate',
      examples: ['0s', '10s'],
    }),
  }),
  settings: Type.Object({
    remote: Type.Boolean({
      default: true,
      description:
        'Whether settings that are pushed to this agent (fleetreel agents) come before its own: intervals, sources, tags, labels of containers; nothing else can be pushed',
    }),
  }),
  data: Type.String({
    default: '/var/lib/fleetreel',
    description:
      'Folder of what has to be kept: frames that the log does not take, settings that were pushed, and a machine id where the system has none',
  }),
  log: Type.Object({
    level: Type.Union(
      (['trace', 'debug', 'info', 'warn', 'error'] as const).map((level) => Type.Literal(level)),
      { default: 'info', description: 'Least severe line that is logged' },
    ),
  }),
});

export type Settings = Readonly<Static<typeof settings>>;

/** What the agent is called, can do and can be told. */
export const program = {
  name,
  version,
  summary: 'Samples this host and publishes frames to the log',
  commands: {
    run: 'Sample and publish until it is stopped',
    inventory: "Say what can be seen here, what can't, and why",
    enroll:
      'Fetch the credentials for NATS for a code, which comes from standard input or FLEETREEL_ENROLMENT_CODE, and write them to the file that nats.credentials names',
    check: 'Say whether the settings are right, NATS can be reached and the name is free; changes nothing',
    spool:
      'Show the frames on disk that the log does not have yet, and whether they are good; ends with 1 when some are damaged, with 2 when they can not be read',
    'llm-proxy':
      'Forward to a server of language models (--upstream, --listen), and measure each request for the agent',
  },
  own: { enroll: 'enroll-', 'llm-proxy': 'llm-proxy-' },
  switches: { json: 'Answer in JSON (inventory, spool)' },
  defaultFile: '/etc/fleetreel/agent.yaml',
  settings,
} satisfies Program<typeof settings>;

/** @throws SettingsError where an interval is out of bounds */
export function checkIntervals({ interval, upload_interval }: Settings): void {
  const { min, max } = intervalMilliseconds;
  const value = milliseconds(interval);
  if (value < min || value > max)
    throw new SettingsError(`interval: ${interval} is not from ${min / 1000}s to ${max / 1000}s.`);
  if (milliseconds(upload_interval) > uploadMillisecondsMax)
    throw new SettingsError(`upload_interval: ${upload_interval} is more than ${uploadMillisecondsMax / 1000}s.`);
}

/** @throws SettingsError where a server of language models is named by what is no address */
export function checkServers(checked: Settings): void {
  const wrong = checked.llm.servers.find((address) => !URL.canParse(withScheme(address)));
  if (wrong !== undefined)
    throw new SettingsError(`llm.servers: ${wrong} is no address. Give one such as http://127.0.0.1:8000.`);
}
