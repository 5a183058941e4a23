// Frames as an agent publishes them, for hosts that have what this machine has not.
import {
  encodeFrame,
  encodeHostDescription,
  type Frame,
  type HostDescription,
  messageId,
  subject,
  type TableName,
  tableNamed,
} from '@fleetreel/proto';
import { jetstream } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { machineIdOf } from './stack.ts';

type Values = readonly (string | number)[];
type Tables = Partial<Record<TableName, Readonly<Record<string, Values>>>>;

/** A host that only its frames make. */
export class PublishedHost {
  readonly host: string;
  readonly #connection: NatsConnection;
  readonly #session: string;
  #sequence = 0;

  constructor(connection: NatsConnection, host: string) {
    this.#connection = connection;
    this.host = host;
    this.#session = machineIdOf(host).slice(0, 16);
  }

  /** Says what the machine is. */
  async describe({ dmiUuid = '', intervalMs = 1000 } = {}): Promise<void> {
    const bytes = encodeHostDescription(descriptionOf(this.host, this.#session, { dmiUuid, intervalMs }));
    await this.#publish('host', bytes, undefined);
  }

  /** A frame of these tables; `change` may spoil its bytes. */
  async publish(tables: Tables, time = Date.now(), change = (bytes: Buffer) => bytes): Promise<void> {
    const sequence = ++this.#sequence;
    const bytes = encodeFrame({
      session: this.#session,
      sequence,
      time_us: Math.round(time * 1000),
      interval_ms: 1000,
      tables: Object.fromEntries(
        Object.entries(tables).map(([name, given]) => [name, columnsOf(name as TableName, given)]),
      ) as unknown as Frame['tables'],
    });
    await this.#publish('frame', change(Buffer.from(bytes)), messageId(this.#session, sequence));
  }

  async #publish(kind: 'frame' | 'host', bytes: Uint8Array, id: string | undefined): Promise<void> {
    const to = subject({ tenant: 'default', kind, host: this.host });
    await jetstream(this.#connection).publish(to, bytes, id === undefined ? {} : { msgID: id });
  }
}

/** What a machine that there is not says of itself. */
export const descriptionOf = (
  host: string,
  session: string,
  { dmiUuid = '', intervalMs = 1000 } = {},
): HostDescription => ({
  host,
  machine_id: machineIdOf(host),
  session,
  time_us: Date.now() * 1000,
  agent_version: '0.0.0',
  platform: 'linux',
  os: 'Debian GNU/Linux 12',
  kernel: '6.18',
  architecture: 'x64',
  cpu_model: '',
  cpu_count: 1,
  memory_bytes: 1024 ** 3,
  gpus: [],
  virtualization: '',
  boot_time_us: 0,
  interval_ms: intervalMs,
  addresses: [],
  tags: {},
  boot_id: '',
  dmi_uuid: dmiUuid,
  upload_interval_ms: 0,
  settings_digest: '',
  settings: {},
  settings_refused: {},
  own_tags: {},
});

/** All columns of a table; labels that are not given are empty, values not available. */
function columnsOf(name: TableName, given: Readonly<Record<string, Values>>): Record<string, Values> {
  const table = tableNamed(name);
  if (!table) throw new Error(`The contract has no table ${name}.`);
  const known = [...table.labels, ...table.fields].map((column) => column.name);
  for (const column of Object.keys(given))
    if (!known.includes(column)) throw new Error(`The table ${name} has no column ${column}.`);
  const count = Object.values(given)[0]?.length ?? 0;
  const whole = (list: readonly { name: string }[], filler: string | number) =>
    list.map((column) => [column.name, given[column.name] ?? Array.from({ length: count }, () => filler)]);
  return Object.fromEntries([...whole(table.labels, ''), ...whole(table.fields, Number.NaN)]);
}
