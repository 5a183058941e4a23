import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  Cursor,
  KernelFile,
  kernelFileBytesMax,
  missingFileRetry_ms,
  numberAfter,
  OptionalFile,
  parsePageBytes,
  readOnce,
  unavailable,
} from '#files.ts';
import { Unavailable } from '#source.ts';
import { SteppedTree } from '#sources/testing.ts';

describe('a kept file', () => {
  test('is read anew each time, whether it grew or shrank', () => {
    using tree = new SteppedTree().write('proc/file', 'first\n');
    const file = new KernelFile(tree.path('proc/file'));
    file.open();
    expect(file.text()).toBe('first\n');
    writeFileSync(file.path, 'the second, longer\n');
    expect(file.text()).toBe('the second, longer\n');
    writeFileSync(file.path, '3\n');
    expect(file.text()).toBe('3\n');
    file.close();
    expect(file.text()).toBe('3\n');
    file.close();
  });

  test('larger than the buffer is read whole, and then still others', () => {
    using tree = new SteppedTree().write('proc/large', '0123456789abcde\n'.repeat(40_000)).write('proc/small', 'ä\n');
    const large = new KernelFile(tree.path('proc/large'));
    expect(large.text()).toBe('0123456789abcde\n'.repeat(40_000));
    const small = new KernelFile(tree.path('proc/small'));
    expect(small.text()).toBe('ä\n');
    large.close();
    small.close();
  });

  test.skipIf(process.platform !== 'linux')('that the kernel gives in pieces is read whole, each time', () => {
    const lists = ['crypto', 'devices', 'iomem', 'modules', 'self/mountinfo'].map((name) => `/proc/${name}`);
    for (const path of lists.filter(existsSync)) {
      const file = new KernelFile(path, path.endsWith('mountinfo'));
      for (let time = 0; time < 2; time++) expect(file.text()).toBe(readFileSync(path, 'utf8'));
      file.close();
    }
  });

  test('beyond the bound is refused', () => {
    using tree = new SteppedTree().write('proc/endless', 'x'.repeat(kernelFileBytesMax));
    appendFileSync(tree.path('proc/endless'), 'y');
    expect(() => new KernelFile(tree.path('proc/endless')).text()).toThrow('endless is larger than 16777216 bytes');
  });

  test('that is missing is unavailable with the reason, and can be read once it is there', () => {
    using tree = new SteppedTree();
    const file = new KernelFile(tree.path('file'));
    expect(() => file.open()).toThrow(Unavailable);
    expect(() => file.open()).toThrow(`${file.path} does not exist here`);
    writeFileSync(file.path, 'here\n');
    file.open();
    expect(file.text()).toBe('here\n');
    file.close();
  });

  test('that is a folder says what the system says', () => {
    using tree = new SteppedTree();
    mkdirSync(tree.path('file'));
    expect(() => new KernelFile(tree.path('file')).open()).toThrow(/file can't be read: EISDIR/);
  });
});

describe('reasons', () => {
  const why = (code: string): Error => unavailable('/proc/x', Object.assign(new Error(`${code}: text`), { code }));
  const reason = (code: string): string => why(code).message;

  test('name what would help', () => {
    expect(reason('ENOENT')).toBe('/proc/x does not exist here');
    expect(reason('EACCES')).toMatch(/^\/proc\/x may not be read: run the agent as root/);
    expect(reason('EPERM')).toMatch(/^\/proc\/x may not be read: run the agent as root/);
    expect(reason('EOPNOTSUPP')).toBe('/proc/x is switched off in this kernel');
    expect(reason('EIO')).toBe("/proc/x can't be read: EIO: text");
  });

  test('that may pass soon are failures, not absences', () => {
    for (const code of ['ENOENT', 'EACCES', 'EOPNOTSUPP']) expect(why(code)).toBeInstanceOf(Unavailable);
    for (const code of ['EIO', 'EMFILE']) expect(why(code)).not.toBeInstanceOf(Unavailable);
  });
});

test('an optional file is empty while it is missing, and looked for once a minute', () => {
  using tree = new SteppedTree();
  const { clock } = tree.context;
  const file = new OptionalFile(tree.path('optional'), clock);
  expect(file.missing).toBeUndefined();
  expect(file.text()).toBe('');
  expect(file.missing).toBe(`${tree.path('optional')} does not exist here`);
  writeFileSync(tree.path('optional'), 'now\n');
  expect(file.text()).toBe('');
  clock.advance(missingFileRetry_ms / 1000);
  expect(file.text()).toBe('now\n');
  expect(file.missing).toBeUndefined();
  file.close();
});

test('reading once gives an empty text for what is missing', () => {
  using tree = new SteppedTree().write('a', '1500\n');
  expect(readOnce(tree.path('a'))).toBe('1500\n');
  expect(readOnce(tree.path('b'))).toBe('');
  renameSync(tree.path('a'), tree.path('b'));
  expect(readOnce(tree.path('b'))).toBe('1500\n');
  mkdirSync(tree.path('folder'));
  expect(readOnce(tree.path('folder'))).toBe('');
});

describe('the cursor', () => {
  test('walks through words, numbers and lines', () => {
    const cursor = new Cursor('a  12 -3\tx\n\n 4.25 1.2.3 5kB 18446744073709551615\nlast 00ff\n');
    expect(cursor.word()).toBe('a');
    expect(cursor.number()).toBe(12);
    expect(cursor.number()).toBe(-3);
    expect(cursor.atLineEnd).toBe(false);
    expect(cursor.number()).toBeNaN();
    expect(cursor.atLineEnd).toBe(true);
    expect(cursor.number()).toBeNaN();
    expect(cursor.word()).toBe('');
    cursor.nextLine();
    expect(cursor.atLineEnd).toBe(true);
    cursor.nextLine();
    expect(cursor.number()).toBe(4.25);
    expect(cursor.number()).toBeNaN();
    expect(cursor.number()).toBeNaN();
    expect(cursor.number()).toBe(2 ** 64);
    cursor.nextLine();
    cursor.skip(1);
    expect(cursor.hexadecimal()).toBe(255);
    expect(cursor.hexadecimal()).toBeNaN();
    expect(cursor.atEnd).toBe(false);
    cursor.nextLine();
    expect(cursor.atEnd).toBe(true);
    cursor.nextLine();
    expect(cursor.atEnd).toBe(true);
  });

  test('does not see a torn last line', () => {
    const cursor = new Cursor('whole 1\ntorn 123');
    cursor.nextLine();
    expect(cursor.atEnd).toBe(true);
    expect(new Cursor('torn').atEnd).toBe(true);
    expect(new Cursor('').atEnd).toBe(true);
  });
});

describe('a number after its key', () => {
  const text = 'MemTotal:       16 kB\nMemFree:  8 kB\nSwapTotal: 0 kB\nnr_free 5\nfree 7\nbad x\ntorn 12';

  test.each([
    ['MemTotal:', 16],
    ['MemFree:', 8],
    ['free ', 7],
    ['nr_free ', 5],
    ['SwapTotal:', 0],
  ])('%s is %i', (key, value) => expect(numberAfter(text, key)).toBe(value));

  test.each(['Total:', 'Mem', 'absent ', 'bad ', 'torn '])('%s has none', (key) =>
    expect(numberAfter(text, key)).toBeNaN(),
  );
});

test('the size of a page comes from the auxiliary vector', () => {
  const vector = new BigUint64Array([33n, 0x7ffcn, 16n, 0xfffbn, 6n, 65_536n, 0n, 0n]);
  expect(parsePageBytes(Buffer.from(vector.buffer))).toBe(65_536);
  expect(parsePageBytes(Buffer.alloc(32))).toBeNaN();
  expect(parsePageBytes(Buffer.alloc(7))).toBeNaN();
});
