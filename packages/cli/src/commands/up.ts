import { thisMachine } from '@fleetreel/deploy/local/obtain';
import { up } from '@fleetreel/deploy/local/up';
import { type Program, readSettings } from '@fleetreel/proto/settings';
import Type from 'typebox';
import manifest from '#package.json' with { type: 'json' };

const text = (fallback: string, description: string, secret = false) =>
  Type.String({ default: fallback, description, secret });
const port = (fallback: number, description: string) =>
  Type.Integer({ default: fallback, minimum: 1, maximum: 65_535, description });

const settings = Type.Object({
  data: text('.fleetreel', 'Folder of everything that is kept: log, tables, passwords, keys, logs of the programs'),
  nats: Type.Object({
    url: Type.Optional(Type.String({ description: 'A NATS server with JetStream that runs already' })),
    port: port(4222, 'Port of the nats-server that is started otherwise'),
  }),
  questdb: Type.Object({
    http_url: Type.Optional(Type.String({ description: 'A QuestDB that runs already' })),
    http_port: port(9000, 'HTTP port of the QuestDB that is started otherwise'),
    pg_port: port(8812, 'Port of its PostgreSQL wire'),
    pg_host: text('127.0.0.1', 'Host of the PostgreSQL wire of a QuestDB that runs already'),
    user: text('admin', 'Its user who writes rows and makes tables'),
    password: text('quest', 'Password of that user', true),
    read_user: text('user', 'Its user who reads history'),
    read_password: text('quest', 'Password of that user', true),
  }),
  http: Type.Object({ port: port(7600, 'Port of the console and the HTTP face') }),
  grpc: Type.Object({ port: port(7601, 'Port of the gRPC face') }),
});

const program = {
  name: 'fleetreel',
  version: manifest.version,
  summary: 'All of Fleetreel on this machine, on loopback, until it is stopped',
  commands: {
    up: 'Start nats-server, QuestDB, collector and agent; their own settings come from the environment',
  },
  settings,
} satisfies Program<typeof settings>;

/** A second signal after so long, milliseconds, means that the user doesn't want to wait; the first may come twice at once. */
const impatience = 1000;

export async function run(argv: readonly string[]): Promise<void> {
  const invocation = readSettings(program, ['up', ...argv], process.env);
  const say = (line: string) => process.stdout.write(`${line}\n`);
  if ('help' in invocation) return void say(invocation.help);

  const stopping = new AbortController();
  let since = 0;
  const stop = () => {
    if (!stopping.signal.aborted) {
      since = performance.now();
      say('Stopping ...');
      stopping.abort();
      // The guard ends what is left when this process is gone.
    } else if (performance.now() - since > impatience) process.exit(130);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
  // Started by `npm start`: when that is gone, this is to end as well.
  const { FLEETREEL_PARENT } = process.env;
  delete process.env.FLEETREEL_PARENT;
  const watch = setInterval(() => {
    if (FLEETREEL_PARENT !== undefined && process.ppid !== Number(FLEETREEL_PARENT) && !stopping.signal.aborted) stop();
  }, 500);
  try {
    await up(invocation.settings, thisMachine(say, stopping.signal), stopping.signal);
  } finally {
    clearInterval(watch);
  }
  if (stopping.signal.aborted) say('Stopped.');
}
