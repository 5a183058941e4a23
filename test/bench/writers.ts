// Applications that write measures, each over a connection that is kept, as fast as they are answered: `node writers.ts --port N
// --connections N --entries N --seconds N`, with the key in FLEETREEL_BENCH_KEY. A program, so that its CPU is told apart; on bare
// sockets, for a client would be what is measured. Prints one line of JSON (`Written`).
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { parseArgs } from 'node:util';
import { quantile } from './figure.ts';
import { bodies } from './measures_sent.ts';

/** What was written. */
export type Written = {
  calls: number;
  /** From the first call to the last answer. */
  seconds: number;
  /** From a call to its answer, milliseconds. */
  answer_p50_ms: number;
  answer_p99_ms: number;
};

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '' },
    connections: { type: 'string', default: '1' },
    entries: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '10' },
  },
});
const [port, connections, entries, seconds] = [
  Number(values.port),
  Number(values.connections),
  Number(values.entries),
  Number(values.seconds),
];

const requests = bodies(entries).map((body) =>
  Buffer.concat([
    Buffer.from(
      `POST /api/v1/measure HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nauthorization: Bearer ${process.env.FLEETREEL_BENCH_KEY ?? ''}\r\n` +
        `content-type: application/x-ndjson\r\ncontent-length: ${body.length}\r\n\r\n`,
    ),
    body,
  ]),
);

const answers_ms: number[] = [];

/** Writes until the end; each call after the answer to the one before. @throws Error where an answer is none of success */
async function write(end_ms: number, place: number): Promise<void> {
  const socket: Socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  socket.setNoDelay(true);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let sent_ms = 0;
  let next = place;
  let answer = '';
  const send = () => {
    sent_ms = performance.now();
    socket.write(requests[next++ % requests.length] as Buffer);
  };
  socket.on('error', reject);
  socket.on('close', () => reject(new Error('The connection was closed.')));
  socket.setEncoding('latin1');
  socket.on('data', (part: string) => {
    answer += part;
    const head = answer.indexOf('\r\n\r\n');
    if (head < 0) return;
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(answer)?.[1]);
    if (!answer.startsWith('HTTP/1.1 200 ') || Number.isNaN(length)) {
      reject(new Error(`The answer is ${answer.slice(0, 1000)}`));
      return;
    }
    if (answer.length < head + 4 + length) return;
    answer = '';
    const now_ms = performance.now();
    answers_ms.push(now_ms - sent_ms);
    if (now_ms < end_ms) send();
    else resolve();
  });
  send();
  await promise;
  socket.removeAllListeners('close');
  socket.destroy();
}

const begin_ms = performance.now();
await Promise.all(Array.from({ length: connections }, (_, place) => write(begin_ms + seconds * 1000, place)));
const took_ms = performance.now() - begin_ms;
const written: Written = {
  calls: answers_ms.length,
  seconds: took_ms / 1000,
  answer_p50_ms: quantile(answers_ms, 0.5),
  answer_p99_ms: quantile(answers_ms, 0.99),
};
process.stdout.write(`${JSON.stringify(written)}\n`);
