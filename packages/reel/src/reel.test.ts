import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { contractTexts } from '@fleetreel/proto';
import { afterAll, describe, expect, test } from 'vitest';
import { blockBytesTarget, kinds, magic, ReelError, type ReelFrame, readHead, sectionHeadBytes } from '#format.ts';
import { ReelReader } from '#reader.ts';
import { ReelWriter } from '#writer.ts';

const folder = mkdtempSync(join(tmpdir(), 'reel-'));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
const newPath = () => join(folder, `${files++}.reel`);

const header = {
  product: '0.1.0',
  created: 1_795_238_811_539,
  tenant: 'default',
  range: { from_us: 0, to_us: 10 },
  hosts: [],
  tables: ['cpu'],
  contract: contractTexts(),
};
const begin_us = 1_795_238_811_539_001;

/** Frames of two hosts in turn, one a second. */
function frames(count: number, size = 4000): ReelFrame[] {
  let state = 1;
  const random = () => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return (state >> 16) & 0xff;
  };
  return Array.from({ length: count }, (_, index) => ({
    host: index % 2 ? 'web-2' : 'wéb-1',
    time_us: begin_us + index * 1_000_000,
    logSequence: 2 ** 40 + index,
    stored_us: index % 3 ? begin_us + index * 1_000_000 + 5 : 0,
    origin: index % 3 ? 'log' : 'store',
    bytes: Buffer.from(Array.from({ length: size }, random)),
  }));
}

async function write(all: readonly ReelFrame[], path = newPath()): Promise<string> {
  await using writer = await ReelWriter.create(path, header);
  for (const frame of all) await writer.add(frame);
  return path;
}

/** What can be read, and the error at its end. */
async function read(path: string, options?: Parameters<ReelReader['frames']>[0]) {
  const found: ReelFrame[] = [];
  let error: ReelError | undefined;
  try {
    await using reader = await ReelReader.open(path);
    for await (const block of reader.frames(options)) found.push(...block);
  } catch (cause) {
    if (!(cause instanceof ReelError)) throw cause;
    error = cause;
  }
  return { found, error };
}

/** Where the sections of a good file begin. */
function sectionsOf(bytes: Buffer): { kind: number; offset: number; end: number }[] {
  const found = [];
  for (let offset = magic.length; offset < bytes.length; ) {
    const { kind, length } = readHead(bytes.subarray(offset, offset + sectionHeadBytes));
    const end = offset + sectionHeadBytes + length;
    found.push({ kind, offset, end });
    offset = end;
  }
  return found;
}

const plain = (all: readonly ReelFrame[]) => all.map((frame) => ({ ...frame, bytes: Buffer.from(frame.bytes) }));

describe('a reel', () => {
  test('gives back what was written, and says what it is of', async () => {
    const all = frames(500);
    const path = await write(all);
    expect((await read(path)).found).toEqual(plain(all));
    await using reader = await ReelReader.open(path);
    expect(reader.header).toEqual(header);
    expect(reader.hosts).toEqual(['wéb-1', 'web-2']);
    expect(reader.frameCount).toBe(500);
    expect(reader.blocks.length).toBe(Math.ceil((500 * 4000) / blockBytesTarget));
    expect(reader.range_us).toEqual({ first: begin_us, last: begin_us + 499_000_000 });
    expect(reader.isOfThisContract).toBe(true);
    expect(reader.unknown()).toEqual([]);
    await reader.verify();
  });

  test('of nothing is good too', async () => {
    const path = await write([]);
    expect(await read(path)).toEqual({ found: [], error: undefined });
    await using reader = await ReelReader.open(path);
    expect(reader.range_us).toBeUndefined();
    await reader.verify();
  });

  test('written twice is the same byte for byte', async () => {
    const [one, two] = [await write(frames(300)), await write(frames(300))];
    expect(Buffer.compare(readFileSync(one), readFileSync(two))).toBe(0);
  });

  test('does not take the place of a file', async () => {
    const path = await write([]);
    await expect(write([], path)).rejects.toMatchObject({ code: 'EEXIST' });
  });

  test('is read from a time, for some hosts, without the blocks that have nothing of it', async () => {
    const all = frames(500);
    // Hosts that are in the last block alone.
    const late = all.slice(-3).map((frame) => ({ ...frame, host: 'late' }));
    const path = await write([...all.slice(0, -3), ...late]);
    const from_us = begin_us + 400_500_000;
    expect((await read(path, { from_us })).found.map(({ time_us }) => time_us)).toEqual(
      all.slice(401).map(({ time_us }) => time_us),
    );
    expect((await read(path, { from_us: 2 * begin_us })).found).toEqual([]);
    expect((await read(path, { hosts: ['late'] })).found).toEqual(plain(late));
    // What is not asked for is not read: a damaged block before it costs nothing.
    const bytes = readFileSync(path);
    const [, first] = sectionsOf(bytes);
    bytes[(first?.end ?? 0) - 1]! ^= 1;
    writeFileSync(path, bytes);
    expect((await read(path, { hosts: ['late'] })).error).toBeUndefined();
    expect((await read(path, { from_us })).found.length).toBe(99);
  });
});

describe('a reel that is not good', () => {
  const all = frames(500);

  test('in any one bit is never read as good: everything before is given, and the error says how far that is', async () => {
    const bytes = readFileSync(await write(all));
    const sections = sectionsOf(bytes);
    expect(sections.map(({ kind }) => kind)).toEqual([
      kinds.header,
      ...Array.from({ length: 4 }, () => kinds.block),
      kinds.index,
      kinds.trailer,
    ]);
    const path = newPath();
    // Every byte class: magic, then of each section its kind, length, checksum, first, middle and last byte.
    const places = [0, 3, 7];
    for (const { offset, end } of sections)
      places.push(offset, offset + 1, offset + 4, offset + 5, offset + 8, offset + 9, (offset + end) >> 1, end - 1);
    for (const place of places)
      for (const bit of [0, 3, 7]) {
        const copy = Buffer.from(bytes);
        copy[place]! ^= 1 << bit;
        writeFileSync(path, copy);
        const what = `byte ${place}, bit ${bit}`;
        const blocks = sections.filter(({ kind, end }) => kind === kinds.block && end <= place);
        let verified: unknown;
        try {
          await using reader = await ReelReader.open(path);
          await reader.verify();
        } catch (cause) {
          verified = cause;
        }
        expect(verified, what).toBeInstanceOf(ReelError);
        const { found, error } = await read(path);
        // Where only index or trailer are damaged, all frames are there.
        expect(
          found.every((frame, index) => frame.logSequence === all[index]?.logSequence),
          what,
        ).toBe(true);
        expect(found.length, what).toBe(Math.min(blocks.length * 132, 500));
        expect(error, what).toBeInstanceOf(ReelError);
        if (place >= magic.length && error?.fault !== 'newer') {
          expect(error?.message, what).toContain(
            `It is good up to byte ${blocks.at(-1)?.end ?? error?.good.bytes}: ${found.length} frames`,
          );
          expect(error?.good.frames, what).toBe(found.length);
          expect(error?.good.time_us, what).toBe(found.at(-1)?.time_us);
        } else expect(error?.message).toMatch(/is no \.reel file/);
      }
  });

  test('since it was cut anywhere is read up to its last whole block', async () => {
    const bytes = readFileSync(await write(all));
    const sections = sectionsOf(bytes);
    const path = newPath();
    for (const { offset, end } of sections)
      for (const length of [offset, offset + 4, offset + sectionHeadBytes, (offset + end) >> 1, end - 1]) {
        writeFileSync(path, bytes);
        truncateSync(path, length);
        const whole = sections.filter((one) => one.kind === kinds.block && one.end <= length).length;
        const { found, error } = await read(path);
        expect(found.length, `${length}`).toBe(Math.min(whole * 132, 500));
        expect(error?.fault, `${length}`).toBe('cut');
        expect(error?.message, `${length}`).toMatch(/was cut\..* It is good up to byte \d+: \d+ frames/);
      }
  });

  test('since its writer was killed is read as far as it was flushed', async () => {
    const path = newPath();
    const writer = await ReelWriter.create(path, header);
    for (const frame of all.slice(0, 30)) await writer.add(frame);
    await writer.flush();
    for (const frame of all.slice(30, 60)) await writer.add(frame);
    const { found, error } = await read(path);
    expect(found).toEqual(plain(all.slice(0, 30)));
    expect(error?.message).toContain('has no end: its writer was stopped, or it was cut. It is good up to byte');
    await writer.close();
    expect((await read(path)).found.length).toBe(60);
  });

  test('with blocks doubled, missing or exchanged, each whole, is found by the checksum over all', async () => {
    const bytes = readFileSync(await write(all));
    const sections = sectionsOf(bytes);
    const part = (index: number) => bytes.subarray(sections[index]?.offset, sections[index]?.end);
    const orders = [
      [0, 1, 1, 2, 3, 4],
      [0, 1, 3, 4],
      [0, 2, 1, 3, 4],
    ];
    const path = newPath();
    for (const order of orders) {
      writeFileSync(path, Buffer.concat([magic, ...order.map(part), part(5), part(6)]));
      const verify = async () => {
        await using reader = await ReelReader.open(path);
        await reader.verify();
      };
      await expect(verify()).rejects.toThrow(ReelError);
    }
  });

  test('of a newer format is refused with what reads it', async () => {
    const bytes = readFileSync(await write(all));
    const [head] = sectionsOf(bytes);
    if (!head) throw new Error('a reel has a header');
    const payload = Buffer.from(bytes.subarray(head.offset + sectionHeadBytes, head.end));
    payload.writeUInt32LE(7);
    const { sectionHead } = await import('#format.ts');
    const path = newPath();
    writeFileSync(path, Buffer.concat([magic, sectionHead(kinds.header, payload), payload, bytes.subarray(head.end)]));
    await expect(ReelReader.open(path)).rejects.toMatchObject({ fault: 'newer' });
    await expect(ReelReader.open(path)).rejects.toThrow('is of format 7, and this version reads up to 1');
  });

  test('or no reel at all is said to be none', async () => {
    const path = newPath();
    for (const content of ['', 'x', 'some text that is longer than the begin of a reel']) {
      writeFileSync(path, content);
      await expect(ReelReader.open(path)).rejects.toMatchObject({ fault: 'foreign' });
    }
  });
});

test('what a newer contract has more is named', async () => {
  const contract = contractTexts();
  const path = 'fleetreel/v1/frame.proto';
  const cpu = 'fleetreel/v1/host.proto';
  const newer = {
    ...contract,
    [path]: `${contract[path]?.replace(/(\n {2}FrameLoss frame_loss = \d+;)/, '$1\n  Tea tea = 99;')}\nmessage Tea { repeated double cups_total = 1; }\n`,
    [cpu]: contract[cpu]?.replace(/message Load \{/, 'message Load {\n  repeated double load_2m_count = 90;') ?? '',
  };
  const file = newPath();
  await (await ReelWriter.create(file, { ...header, contract: newer })).close();
  await using reader = await ReelReader.open(file);
  expect(reader.isOfThisContract).toBe(false);
  expect(reader.unknown().sort()).toEqual(['load.load_2m_count', 'tea']);
});
