import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { type Device, DeviceFile, DeviceReader, wholeNumber } from '#devices.ts';
import { deviceAnswerMilliseconds } from '#limits.ts';

const folder = mkdtempSync(join(tmpdir(), 'fleetreel-devices-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('a whole number, and nothing else', () => {
  expect(['0', '42000', '-44000'].map(wholeNumber)).toEqual([0, 42_000, -44_000]);
  for (const text of ['', 'N/A', '1 2', '0x10', '1.5', '+1']) expect(wholeNumber(text), text).toBeNaN();
});

test('a file is read from its start each time, and anew after it went and came back', async () => {
  const path = join(folder, 'temp1_input');
  writeFileSync(path, '42000\n');
  const file = new DeviceFile(path);
  expect(await file.number()).toBe(42_000);
  writeFileSync(path, '43000\n');
  expect(await file.number()).toBe(43_000);
  file.close();
  const gone = new DeviceFile(join(folder, 'gone'));
  await expect(gone.number()).rejects.toThrow(/ENOENT/);
  writeFileSync(gone.path, '1\n');
  expect(await gone.number()).toBe(1);
  gone.close();
});

test.runIf(process.platform === 'linux')('an error of the device is that of this file', async () => {
  // The kernel answers EIO here, as a sensor that does not reply.
  const file = new DeviceFile('/proc/self/mem');
  await expect(file.text()).rejects.toThrow(/EIO/);
  await expect(file.text()).rejects.toThrow(/EIO/);
  file.close();
});

class Counted implements Device {
  readonly name: string;
  readonly #file: DeviceFile;
  answers = 0;

  constructor(path: string) {
    this.name = path;
    this.#file = new DeviceFile(path);
  }

  async read(): Promise<void> {
    // A pipe can't be read from its start: an answer is all that is looked at here.
    await this.#file.text().catch(() => {});
    this.answers++;
  }

  close(): void {
    this.#file.close();
  }
}

/** A pipe that nobody writes into: opening it hangs in the kernel, as a driver does that waits for its bus. */
function hung(name: string): string {
  const path = join(folder, name);
  execFileSync('mkfifo', [path]);
  return path;
}

/** Opening it for writing is what the reader waits for; it may be gone before anything could be written. */
async function release(path: string): Promise<void> {
  const writer = await open(path, 'w');
  await writer.close();
}

test.runIf(process.platform === 'linux')(
  'two that hang keep no other from being read, are not asked again, and come back by themselves',
  async () => {
    const good = join(folder, 'good');
    writeFileSync(good, '1\n');
    const took_ms: number[] = [];
    for (const name of ['slow-1', 'slow-2', 'slow-3']) {
      const slow = new Counted(hung(name));
      const begin_ms = systemClock.monotonic_ms();
      await new DeviceReader(systemClock).read([new Counted(good), slow]);
      took_ms.push(systemClock.monotonic_ms() - begin_ms);
      await release(slow.name);
      await expect.poll(() => slow.answers).toBe(1);
    }
    // The machine may do something else for a moment: the least counts.
    expect(Math.min(...took_ms)).toBeLessThan(deviceAnswerMilliseconds * 5);

    const [first, second] = [new Counted(hung('first')), new Counted(hung('second'))];
    const others = [new Counted(good), new Counted(good)] as const;
    const reader = new DeviceReader(systemClock);
    const devices = [others[0], first, others[1]];
    await reader.read(devices);
    await expect.poll(() => others.map(({ answers }) => answers), { timeout: 20_000 }).toEqual([1, 1]);
    expect(reader.hanging()).toEqual([expect.stringMatching(/first has not answered for \d+ s: its driver waits/)]);

    await expect
      .poll(
        async () => {
          await reader.read([...devices, second]);
          return Math.min(...others.map(({ answers }) => answers));
        },
        { timeout: 20_000 },
      )
      .toBeGreaterThan(1);
    await expect.poll(() => reader.hanging().length, { timeout: 20_000 }).toBe(2);
    expect([first.answers, second.answers]).toEqual([0, 0]);

    await release(first.name);
    await release(second.name);
    await expect.poll(() => [first.answers, second.answers], { timeout: 20_000 }).toEqual([1, 1]);
    await expect.poll(() => reader.hanging(), { timeout: 20_000 }).toEqual([]);
    for (const device of [...devices, second]) device.close();
  },
  90_000,
);
