// containerd and CRI-O by their sockets: the Container Runtime Interface, version 1
// (https://github.com/kubernetes/cri-api, pkg/apis/runtime/v1/api.proto), and the events of containerd
// (https://github.com/containerd/containerd, api/services/events/v1/events.proto and api/events/task.proto). It is gRPC, of
// which so little is used that HTTP/2 and a reader of the wire form take less memory than a client of gRPC.
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { setTimeout } from 'node:timers/promises';
import type { EngineContainer } from '#engine.ts';
import { type EngineEvent, unknownContainer } from '#engine_api.ts';
import { type EngineApi, EngineError, NoEngine, within } from '#engine_socket.ts';
import { engineAnswerBytesMax, engineAnswerMilliseconds, engineEventBytesMax } from '#limits.ts';

/** The namespace in which containerd keeps what Kubernetes runs. */
const namespace = 'k8s.io';

/** How often, and with which pauses, it is looked for the pod of which a process was started: it is made in less than a second. */
const sandboxTriesMax = 5;
const sandboxPauseMilliseconds = 300;

/** Asks an engine of Kubernetes. */
export class CriApi implements EngineApi {
  readonly #socket: string;
  #engine = '';
  /** Containers that it has described, without those that it has removed. The others that it runs hold a pod's namespaces. */
  readonly #described = new Set<string>();

  constructor(socket: string) {
    this.#socket = socket;
  }

  async identify(signal: AbortSignal): Promise<string> {
    const answer = await this.#ask('/runtime.v1.RuntimeService/Version', empty, signal);
    // VersionResponse: version 1, runtime_name 2.
    this.#engine = readFields(answer).text(2);
    return this.#engine;
  }

  async list(signal: AbortSignal): Promise<EngineContainer[]> {
    const containers = await this.#ask('/runtime.v1.RuntimeService/ListContainers', empty, signal);
    const pods = await this.#sandboxes(signal);
    const listed = readFields(containers)
      .messages(1)
      .map((one) => parseListed(this.#engine, one));
    return [...listed, ...pods].filter(({ id }) => isId(id));
  }

  async inspect(id: string, signal: AbortSignal): Promise<EngineContainer | undefined> {
    const container = await this.#status(id, signal);
    if (container || this.#described.has(id)) return container;
    // What holds the namespaces of a pod is no container to its engine, and listed only some time after its start.
    for (let tries = 0; tries < sandboxTriesMax; tries++) {
      const pod = (await this.#sandboxes(signal)).find((one) => one.id === id);
      if (pod) return pod;
      await setTimeout(sandboxPauseMilliseconds, undefined, { signal });
    }
    return undefined;
  }

  async follow(
    _since_us: number,
    began: () => void,
    take: (event: EngineEvent) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const isContainerd = this.#engine === 'containerd';
    const path = isContainerd
      ? '/containerd.services.events.v1.Events/Subscribe'
      : '/runtime.v1.RuntimeService/GetContainerEvents';
    const asked = isContainerd ? lengthDelimited(1, Buffer.from(`namespace==${namespace}`)) : empty;
    await call(this.#socket, path, asked, signal, engineEventBytesMax, began, async (message) => {
      const event = isContainerd ? parseContainerdEvent(message) : parseCriEvent(message);
      if (!event || !isId(event.id)) return;
      if (event.action === 'destroy') this.#described.delete(event.id);
      // containerd tells the id alone: what else there is to tell is asked for before it is told.
      const known = event.action === 'start' && event.name === '' ? await this.#status(event.id, signal) : undefined;
      take(known ? { ...event, name: known.name, image: known.image, labels: known.labels } : event);
    });
  }

  async #sandboxes(signal: AbortSignal): Promise<EngineContainer[]> {
    const answer = await this.#ask('/runtime.v1.RuntimeService/ListPodSandbox', empty, signal);
    return readFields(answer)
      .messages(1)
      .map((pod) => parseSandbox(this.#engine, pod));
  }

  /** Undefined when it knows no such container. */
  async #status(id: string, signal: AbortSignal): Promise<EngineContainer | undefined> {
    try {
      const asked = lengthDelimited(1, Buffer.from(id));
      const answer = await this.#ask('/runtime.v1.RuntimeService/ContainerStatus', asked, signal);
      const container = parseStatus(this.#engine, readFields(answer).message(1));
      this.#described.add(id);
      return container;
    } catch (cause) {
      if (cause instanceof EngineError && !Number.isNaN(cause.status)) return undefined;
      throw cause;
    }
  }

  async #ask(path: string, message: Buffer, signal: AbortSignal): Promise<Buffer> {
    let answer: Buffer | undefined;
    await within(engineAnswerMilliseconds, signal, (limited) =>
      call(
        this.#socket,
        path,
        message,
        limited,
        engineAnswerBytesMax,
        () => {},
        async (found) => {
          answer = found;
        },
      ),
    );
    if (!answer) throw new EngineError('answers with nothing');
    return answer;
  }
}

const isId = (id: string): boolean => /^[0-9a-f]{64}$/.test(id);

/** One call over a connection of its own; resolves when the answer has ended well. */
async function call(
  socket: string,
  path: string,
  message: Buffer,
  signal: AbortSignal,
  messageBytesMax: number,
  began: () => void,
  take: (message: Buffer) => Promise<void>,
): Promise<void> {
  const [{ connect: connectHttp2, constants }, { connect: connectSocket }] = await Promise.all([
    import('node:http2'),
    import('node:net'),
  ]);
  signal.throwIfAborted();
  const failed = Promise.withResolvers<never>();
  const wire = connectSocket(socket);
  wire.on('error', failed.reject);
  const session: ClientHttp2Session = connectHttp2('http://localhost', { createConnection: () => wire });
  session.on('error', failed.reject);
  const abort = (): void => failed.reject(signal.reason as Error);
  signal.addEventListener('abort', abort, { once: true });
  try {
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: 'POST',
      [constants.HTTP2_HEADER_PATH]: path,
      'content-type': 'application/grpc',
      te: 'trailers',
      'containerd-namespace': namespace,
    });
    stream.on('error', failed.reject);
    stream.on('response', began);
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([head, message]));
    await Promise.race([readMessages(stream, messageBytesMax, take), failed.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
    session.destroy();
    wire.destroy();
  }
}

/** Takes the messages of an answer one after the other. @throws EngineError when it ends with a failure */
async function readMessages(
  stream: ClientHttp2Stream,
  messageBytesMax: number,
  take: (message: Buffer) => Promise<void>,
): Promise<void> {
  let status = '';
  const ended = (headers: Record<string, unknown>): void => {
    const said = headers['grpc-status'];
    if (typeof said === 'string') status = said;
  };
  stream.on('response', ended);
  stream.on('trailers', ended);
  const messages = new Messages(messageBytesMax);
  for await (const piece of stream as AsyncIterable<Buffer>)
    for (const message of messages.add(piece)) await take(message);
  // 12: it has no such service; Docker's own containerd has none for Kubernetes.
  if (status === '12') throw new NoEngine('does not serve Kubernetes');
  if (status === '') throw new EngineError('breaks off its answer');
  if (status !== '0') throw new EngineError(`answers with the status ${status} of gRPC`, Number(status));
}

/** Puts messages together from the pieces in which they come: a byte that says whether it is compressed, four for its length. */
export class Messages {
  readonly #bytesMax: number;
  #kept: Buffer[] = [];
  #keptBytes = 0;
  #neededBytes = 5;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** The messages that are complete with this piece. @throws EngineError when one is too large, or compressed */
  add(piece: Buffer): Buffer[] {
    this.#kept.push(piece);
    this.#keptBytes += piece.length;
    const complete: Buffer[] = [];
    if (this.#keptBytes < this.#neededBytes) return complete;
    let rest = Buffer.concat(this.#kept);
    this.#neededBytes = 5;
    while (rest.length >= 5) {
      const length = rest.readUInt32BE(1);
      if (length > this.#bytesMax) throw new EngineError(`answers with more than ${this.#bytesMax / 1024 / 1024} MiB`);
      if (rest[0] !== 0) throw new EngineError('compresses its answers, which nobody asked for');
      this.#neededBytes = 5 + length;
      if (rest.length < this.#neededBytes) break;
      complete.push(rest.subarray(5, this.#neededBytes));
      rest = rest.subarray(this.#neededBytes);
      this.#neededBytes = 5;
    }
    this.#kept = [rest];
    this.#keptBytes = rest.length;
    return complete;
  }
}

const empty = Buffer.alloc(0);

// The wire form of Protocol Buffers: https://protobuf.dev/programming-guides/encoding/

function lengthDelimited(field: number, bytes: Buffer): Buffer {
  if (bytes.length > 127) throw new RangeError('only short fields are written');
  return Buffer.concat([Buffer.from([field * 8 + 2, bytes.length]), bytes]);
}

/** The fields of a message by their numbers. Texts are those of the engine: any. */
class Fields {
  readonly #fields: ReadonlyMap<number, (number | Buffer)[]>;

  constructor(fields: ReadonlyMap<number, (number | Buffer)[]>) {
    this.#fields = fields;
  }

  number(field: number): number {
    const value = this.#fields.get(field)?.at(-1);
    return typeof value === 'number' ? value : 0;
  }

  text(field: number): string {
    const value = this.#fields.get(field)?.at(-1);
    return Buffer.isBuffer(value) ? value.toString() : '';
  }

  messages(field: number): Fields[] {
    return (this.#fields.get(field) ?? []).filter((value) => Buffer.isBuffer(value)).map(readFields);
  }

  message(field: number): Fields {
    return this.messages(field).at(-1) ?? new Fields(new Map());
  }

  /** A map from text to text. */
  pairs(field: number): Record<string, string> {
    return Object.fromEntries(this.messages(field).map((pair) => [pair.text(1), pair.text(2)]));
  }
}

/** @throws EngineError when it is torn */
export function readFields(bytes: Buffer): Fields {
  const fields = new Map<number, (number | Buffer)[]>();
  let at = 0;
  const varint = (): number => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) break;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(BigInt.asIntN(64, value));
    }
    throw new EngineError('answers with a torn message');
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    let value: number | Buffer;
    if (kind === 0) value = varint();
    else {
      const length = kind === 2 ? varint() : kind === 1 ? 8 : kind === 5 ? 4 : -1;
      if (length < 0 || at + length > bytes.length) throw new EngineError('answers with a torn message');
      value = bytes.subarray(at, at + length);
      at += length;
    }
    const field = tag >>> 3;
    const values = fields.get(field);
    if (values) values.push(value);
    else fields.set(field, [value]);
  }
  return new Fields(fields);
}

// ContainerState of CRI.
const states = ['created', 'running', 'exited', ''];

/** Container: id 1, metadata 3 (name 1), image 4 (image 1), state 6, labels 8. */
function parseListed(engine: string, container: Fields): EngineContainer {
  return {
    ...unknownContainer(engine, container.text(1)),
    name: container.message(3).text(1),
    image: container.message(4).text(1),
    state: states[container.number(6)] ?? '',
    labels: container.pairs(8),
  };
}

/** PodSandbox: id 1, metadata 2 (name 1, uid 2, namespace 3), state 3, created_at 4, labels 5. */
function parseSandbox(engine: string, pod: Fields): EngineContainer {
  const metadata = pod.message(2);
  const isReady = pod.number(3) === 0;
  return {
    ...unknownContainer(engine, pod.text(1)),
    // As Kubernetes has always called it.
    name: 'POD',
    state: isReady ? 'running' : 'exited',
    startedAt_us: pod.number(4) / 1000 || Number.NaN,
    labels: {
      ...pod.pairs(5),
      'io.kubernetes.pod.name': metadata.text(1),
      'io.kubernetes.pod.uid': metadata.text(2),
      'io.kubernetes.pod.namespace': metadata.text(3),
    },
  };
}

/**
 * ContainerStatus: id 1, metadata 2 (name 1, attempt 2), state 3, started_at 5, finished_at 6, exit_code 7, image 8, reason 10,
 * labels 12, resources 16 (linux 1: cpu_period 1, cpu_quota 2, memory_limit_in_bytes 4). Times in nanoseconds, 0 for none.
 */
function parseStatus(engine: string, status: Fields): EngineContainer {
  const state = states[status.number(3)] ?? '';
  const hasEnded = state === 'exited';
  const limits = status.message(16).message(1);
  const [period, quota, memory] = [limits.number(1), limits.number(2), limits.number(4)];
  const startedAt_us = Math.floor(status.number(5) / 1000) || Number.NaN;
  return {
    ...unknownContainer(engine, status.text(1)),
    name: status.message(2).text(1),
    image: status.message(8).text(1),
    labels: status.pairs(12),
    state,
    // Kubernetes makes a new container for each attempt.
    restarts: status.message(2).number(2),
    exitCode: hasEnded ? status.number(7) : Number.NaN,
    isOomKilled: status.text(10) === 'OOMKilled',
    startedAt_us,
    finishedAt_us: hasEnded ? Math.max(startedAt_us || 0, Math.floor(status.number(6) / 1000)) : Number.NaN,
    cpuLimit_cores: quota > 0 && period > 0 ? quota / period : Number.NaN,
    memoryLimit_bytes: memory > 0 ? memory : Number.NaN,
  };
}

const untold = { name: '', image: '', labels: {}, exitCode: Number.NaN, health: '' } as const;

const topics: Readonly<Record<string, EngineEvent['action']>> = {
  '/containers/create': 'create',
  '/tasks/start': 'start',
  '/tasks/exit': 'die',
  '/tasks/oom': 'oom',
  '/tasks/paused': 'pause',
  '/tasks/resumed': 'unpause',
  '/containers/delete': 'destroy',
};

/**
 * Envelope: timestamp 1 (seconds 1, nanos 2), namespace 2, topic 3, event 4 (value 2). In the events that are followed the
 * container's id is 1; of TaskExit id is 2, exit_status 4, exited_at 5.
 */
export function parseContainerdEvent(message: Buffer): EngineEvent | undefined {
  const envelope = readFields(message);
  const topic = envelope.text(3);
  const action = Object.hasOwn(topics, topic) ? topics[topic] : undefined;
  if (action === undefined || envelope.text(2) !== namespace) return undefined;
  const event = envelope.message(4).message(2);
  const id = event.text(1);
  // The end of a further process in the container is told with its own id.
  if (action === 'die' && event.text(2) !== id) return undefined;
  const exitedAt = event.message(5);
  const time = action === 'die' && exitedAt.number(1) > 0 ? exitedAt : envelope.message(1);
  return {
    ...untold,
    action,
    id,
    exitCode: action === 'die' ? event.number(4) : Number.NaN,
    time_us: time.number(1) * 1e6 + Math.floor(time.number(2) / 1000),
  };
}

const eventTypes = ['create', 'start', 'die', 'destroy'] as const;

/** ContainerEventResponse: container_id 1, container_event_type 2, created_at 3, containers_statuses 5. */
export function parseCriEvent(message: Buffer): EngineEvent | undefined {
  const event = readFields(message);
  const action = eventTypes[event.number(2)];
  if (action === undefined) return undefined;
  const id = event.text(1);
  const status = event.messages(5).find((one) => one.text(1) === id);
  const container = status ? parseStatus('', status) : undefined;
  return {
    ...untold,
    action,
    id,
    name: container?.name ?? '',
    image: container?.image ?? '',
    labels: container?.labels ?? {},
    exitCode: action === 'die' ? (container?.exitCode ?? Number.NaN) : Number.NaN,
    time_us: Math.floor(event.number(3) / 1000),
  };
}
