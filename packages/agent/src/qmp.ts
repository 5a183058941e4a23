import { once } from 'node:events';
import { connect } from 'node:net';
import type { Parameters } from '#libvirt.ts';
import { qmpAnswerBytesMax } from '#limits.ts';

/** What is asked of QEMU: nothing of it changes anything. */
export const qmpQuestions = [
  'query-uuid',
  'query-name',
  'query-status',
  'query-cpus-fast',
  'query-balloon',
  'query-blockstats',
  'query-block',
] as const;

export type QmpAnswers = Partial<Record<(typeof qmpQuestions)[number], unknown>>;

/**
 * Connects to a QMP socket, asks, and leaves: it serves one client at a time, and the user's own tools shall find it free.
 * Questions that QEMU answers with an error (a machine without a balloon) have no answer.
 * @see https://www.qemu.org/docs/master/interop/qmp-spec.html
 * @throws Error when the socket can't be used or says something else; the signal's reason when another program holds it
 */
export async function askQmp(path: string, signal: AbortSignal): Promise<QmpAnswers> {
  const socket = connect(path);
  socket.setEncoding('utf8');
  socket.on('error', () => {});
  const abort = () => socket.destroy(signal.reason as Error);
  signal.addEventListener('abort', abort, { once: true });
  try {
    await once(socket, 'connect', { signal });
    const answers: QmpAnswers = {};
    let characters = 0;
    let line = '';
    for await (const chunk of socket as AsyncIterable<string>) {
      characters += chunk.length;
      if (characters > qmpAnswerBytesMax) throw new Error(`QEMU answered more than ${qmpAnswerBytesMax} bytes`);
      const lines = (line + chunk).split('\n');
      line = lines.pop() ?? '';
      for (const complete of lines) {
        const message = JSON.parse(complete) as { QMP?: unknown; id?: unknown; return?: unknown };
        // One after the other, as QEMU reads them.
        if (message.QMP)
          for (const execute of ['qmp_capabilities', ...qmpQuestions])
            socket.write(`${JSON.stringify({ execute, id: execute })}\n`);
        const question = qmpQuestions.find((name) => name === message.id);
        if (question && message.return !== undefined) answers[question] = message.return;
        if (question === qmpQuestions.at(-1)) return answers;
      }
    }
    signal.throwIfAborted();
    throw new Error('QEMU closed its QMP socket before it had answered');
  } finally {
    signal.removeEventListener('abort', abort);
    socket.destroy();
  }
}

/** QEMU's run states as libvirt's numbers of state and reason. */
const runStates: Record<string, readonly [number, number]> = {
  running: [1, 0],
  paused: [3, 1],
  prelaunch: [3, 11],
  inmigrate: [3, 11],
  postmigrate: [3, 2],
  'finish-migrate': [3, 2],
  'save-vm': [3, 3],
  'restore-vm': [3, 7],
  'io-error': [3, 5],
  watchdog: [3, 6],
  'internal-error': [3, 14],
  colo: [3, 2],
  debug: [3, 1],
  shutdown: [4, 0],
  suspended: [7, 0],
  'guest-panicked': [6, 1],
};

/** A member of what QEMU answered, at any depth; undefined where something on the way is missing or of another kind. */
function member(value: unknown, ...names: readonly string[]): unknown {
  let found = value;
  for (const name of names) found = typeof found === 'object' && found !== null ? (found as never)[name] : undefined;
  return found;
}
const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');
const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** Who a machine is; empty where QEMU was not told. */
export function identityOf(answers: QmpAnswers): { uuid: string; name: string } {
  const uuid = textOf(member(answers['query-uuid'], 'UUID')).toLowerCase();
  return { uuid: /^[0-]*$/.test(uuid) ? '' : uuid, name: textOf(member(answers['query-name'], 'name')) };
}

/** The host's threads of the virtual processors, by their number. */
export function threadsOf(answers: QmpAnswers): Map<number, number> {
  const threads = new Map<number, number>();
  for (const cpu of listOf(answers['query-cpus-fast'])) {
    const [index, thread] = [member(cpu, 'cpu-index'), member(cpu, 'thread-id')];
    if (typeof index === 'number' && typeof thread === 'number') threads.set(index, thread);
  }
  return threads;
}

/** What QEMU answered, under the names and in the units of libvirt. */
export function parametersOf(answers: QmpAnswers): Parameters {
  const parameters: Parameters = new Map();
  const put = (name: string, value: unknown, scale = 1): void => {
    if (typeof value === 'number') parameters.set(name, value * scale);
    else if (typeof value === 'string') parameters.set(name, value);
  };
  const [state, reason] = runStates[textOf(member(answers['query-status'], 'status'))] ?? [];
  put('state.state', state);
  put('state.reason', reason);
  put('balloon.current', member(answers['query-balloon'], 'actual'), 1 / 1024);
  const threads = threadsOf(answers);
  if (threads.size > 0) {
    put('vcpu.current', threads.size);
    put('vcpu.maximum', Math.max(...threads.keys()) + 1);
    for (const vcpu of threads.keys()) put(`vcpu.${vcpu}.state`, 1);
  }
  const images = new Map(listOf(answers['query-block']).map((block) => [nameOf(block), member(block, 'inserted')]));
  let count = 0;
  for (const block of listOf(answers['query-blockstats'])) {
    const name = nameOf(block);
    const image = images.get(name);
    // A drive without a medium.
    if (name === '' || image === undefined) continue;
    const set = (key: string, ...path: readonly string[]) =>
      put(`block.${count}.${key}`, member(block, 'stats', ...path));
    put(`block.${count}.name`, name);
    put(`block.${count}.path`, member(image, 'file'));
    set('rd.bytes', 'rd_bytes');
    set('wr.bytes', 'wr_bytes');
    set('rd.reqs', 'rd_operations');
    set('wr.reqs', 'wr_operations');
    set('fl.reqs', 'flush_operations');
    set('rd.times', 'rd_total_time_ns');
    set('wr.times', 'wr_total_time_ns');
    set('fl.times', 'flush_total_time_ns');
    set('allocation', 'wr_highest_offset');
    put(`block.${count}.capacity`, member(image, 'image', 'virtual-size'));
    put(`block.${count}.physical`, member(image, 'image', 'actual-size'));
    count++;
  }
  put('block.count', count);
  return parameters;
}

/** A drive by its name; one that was given as -blockdev has none and is known by its device. */
const nameOf = (block: unknown): string => textOf(member(block, 'device')) || textOf(member(block, 'qdev'));

/** What the command line of a QEMU process says. */
export type QemuCommand = {
  uuid: string;
  name: string;
  /** Paths of its QMP sockets, as they were given. */
  sockets: readonly string[];
  /** It was started by libvirt, which holds its monitor. */
  isLibvirts: boolean;
};

/** Reads the arguments of qemu-system-*: options have one dash or two, a comma in a value is written twice. */
export function parseQemuCommand(argv: readonly string[]): QemuCommand {
  const options = (text: string): Map<string, string> =>
    new Map(
      text.split(/(?<!,),(?!,)/).map((part) => {
        const [key = '', ...value] = part.replaceAll(',,', ',').split('=');
        return [key, value.join('=')];
      }),
    );
  const isServer = (given: Map<string, string>) => given.has('server') && !/^(off|no)$/.test(given.get('server') ?? '');
  const chardevs = new Map<string, Map<string, string>>();
  const monitors: string[] = [];
  const sockets: string[] = [];
  let [uuid, name] = ['', ''];
  for (const [place, argument] of argv.entries()) {
    if (!argument.startsWith('-')) continue;
    const value = argv[place + 1] ?? '';
    const given = options(value);
    const [first = ''] = given.keys();
    switch (argument.replace(/^--?/, '')) {
      case 'uuid':
        uuid = value.toLowerCase();
        break;
      case 'name':
        name = given.get('guest') ?? first;
        break;
      case 'qmp':
      case 'qmp-pretty':
        if (first.startsWith('unix:') && isServer(given)) sockets.push(first.slice('unix:'.length));
        break;
      case 'chardev':
        if (first === 'socket') chardevs.set(given.get('id') ?? '', given);
        break;
      case 'mon':
        if (given.get('mode') === 'control') monitors.push(given.get('chardev') ?? first);
        break;
    }
  }
  for (const id of monitors) {
    const chardev = chardevs.get(id);
    const path = chardev?.get('path');
    if (chardev && path && isServer(chardev)) sockets.push(path);
  }
  return { uuid, name, sockets, isLibvirts: chardevs.has('charmonitor') };
}
