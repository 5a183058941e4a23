import { expect, test } from 'vitest';
import { Messages, parseContainerdEvent, parseCriEvent, readFields } from '#engine_cri.ts';

// The wire form as the documents tell it; what containerd really says is in engines.servers.test.ts. No CRI-O has been seen.

const id = 'c0'.repeat(32);

function varint(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) + 128);
  return Buffer.from([...bytes, Number(rest)]);
}

const number = (field: number, value: bigint): Buffer => Buffer.concat([varint(BigInt(field * 8)), varint(value)]);

function part(field: number, ...values: (Buffer | string)[]): Buffer {
  const bytes = Buffer.concat(values.map((value) => Buffer.from(value as string)));
  return Buffer.concat([varint(BigInt(field * 8 + 2)), varint(BigInt(bytes.length)), bytes]);
}

const timestamp = (field: number): Buffer => part(field, number(1, 1_795_250_670n), number(2, 189_366_668n));
const time_us = 1_795_250_670_189_366;

const envelope = (topic: string, event: Buffer, namespace = 'k8s.io'): Buffer =>
  Buffer.concat([
    timestamp(1),
    part(2, namespace),
    part(3, topic),
    part(4, part(1, 'containerd.events.Any'), part(2, event)),
  ]);

test('events of containerd', () => {
  const started = Buffer.concat([part(1, id), number(2, 4711n)]);
  expect(parseContainerdEvent(envelope('/tasks/start', started))).toMatchObject({ action: 'start', id, time_us });
  const exited = Buffer.concat([part(1, id), part(2, id), number(3, 4711n), number(4, 137n), timestamp(5)]);
  expect(parseContainerdEvent(envelope('/tasks/exit', exited))).toMatchObject({
    action: 'die',
    exitCode: 137,
    time_us,
  });
  // A process that was started in it besides.
  const other = Buffer.concat([part(1, id), part(2, 'e'.repeat(64)), number(4, 0n)]);
  expect(parseContainerdEvent(envelope('/tasks/exit', other))).toBeUndefined();
  expect(parseContainerdEvent(envelope('/tasks/start', started, 'moby'))).toBeUndefined();
  expect(parseContainerdEvent(envelope('/images/create', part(1, 'box')))).toBeUndefined();
  expect(parseContainerdEvent(envelope('constructor', started))).toBeUndefined();
});

test('events of CRI-O', () => {
  const status = part(
    5,
    part(1, id),
    part(2, part(1, 'nginx')),
    number(3, 2n),
    number(7, 3n),
    part(8, part(1, 'docker.io/nginx')),
    part(12, part(1, 'team'), part(2, '"\n<b>')),
  );
  const stopped = Buffer.concat([part(1, id), number(2, 2n), number(3, 1_795_250_670_189_366_668n), status]);
  expect(parseCriEvent(stopped)).toMatchObject({
    action: 'die',
    id,
    name: 'nginx',
    image: 'docker.io/nginx',
    labels: { team: '"\n<b>' },
    exitCode: 3,
  });
  // The first of an enumeration is not written.
  expect(parseCriEvent(part(1, id))).toMatchObject({ action: 'create', id });
  expect(parseCriEvent(Buffer.concat([part(1, id), number(2, 9n)]))).toBeUndefined();
});

test('fields: negative numbers, fixed widths, repeated ones; a torn message is an error', () => {
  const fields = readFields(
    Buffer.concat([
      number(1, -1n),
      Buffer.from([2 * 8 + 1, 0, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from([3 * 8 + 5, 0, 0, 0, 0]),
      part(4, 'one'),
      part(4, 'two'),
    ]),
  );
  expect(fields.number(1)).toBe(-1);
  expect(fields.text(4)).toBe('two');
  expect(fields.text(9)).toBe('');
  for (const torn of [[0x80], [1 * 8 + 2, 200], [1 * 8 + 2], [1 * 8 + 3], [1 * 8, ...Array<number>(11).fill(0xff)]])
    expect(() => readFields(Buffer.from(torn))).toThrow('torn');
});

test('messages come in pieces, several in one, and bounded', () => {
  const framed = (message: string): Buffer => {
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    return Buffer.concat([head, Buffer.from(message)]);
  };
  const all = Buffer.concat([framed('first'), framed(''), framed('second')]);
  for (const size of [1, 3, 7, all.length]) {
    const messages = new Messages(100);
    const found: string[] = [];
    for (let at = 0; at < all.length; at += size)
      found.push(...messages.add(all.subarray(at, at + size)).map((message) => message.toString()));
    expect(found).toEqual(['first', '', 'second']);
  }
  expect(() => new Messages(100).add(framed('x'.repeat(101)))).toThrow('answers with more than');
  expect(() => new Messages(100).add(Buffer.from([1, 0, 0, 0, 1, 7]))).toThrow('compresses');
});
