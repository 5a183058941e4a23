import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { cleanMappings } from '#pages.ts';

/** An entry of /proc/PID/smaps, shortened to what is read. */
const entry = (head: string, dirty_kB: number, anonymous_kB = dirty_kB): string =>
  `${head}\nSize:              12740 kB\nRss:               11424 kB\nPrivate_Clean:         0 kB\n` +
  `Private_Dirty:         ${dirty_kB} kB\nReferenced:         11416 kB\nAnonymous:             ${anonymous_kB} kB\nVmFlags: rd mr mw me\n`;

test('only files that were not changed and can not be are given back', () => {
  const smaps = [
    entry('00400000-0106f000 r--p 00000000 fe:00 655376                             /usr/bin/node', 0),
    entry('0106f000-02b49000 r-xp 00c6f000 fe:00 655376                             /usr/bin/node', 0),
    // Relocated at the start: its pages are not the file's.
    entry('04a7e000-04a82000 r--p 0467e000 fe:00 655376                             /usr/bin/node', 8),
    entry('04a82000-04a9c000 r--p 04682000 fe:00 655376                             /usr/bin/node', 0, 4),
    entry('04a9c000-04abc000 rw-p 04682000 fe:00 655376                             /usr/bin/node', 0),
    entry('04abc000-04abd000 r--s 00000000 fe:00 655377                             /tmp/shared', 0),
    entry('2a1c2000-2a861000 rw-p 00000000 00:00 0                                  [heap]', 0),
    entry('7fff8d1f9000-7fff8d1fb000 r-xp 00000000 00:00 0                          [vdso]', 0),
    entry('7f3f54000000-7f3f54021000 r--p 00000000 00:00 0 ', 0),
  ].join('');
  expect(cleanMappings(smaps)).toEqual([
    { address: 0x400000n, bytes: 0xc6f000n },
    { address: 0x106f000n, bytes: 0x1ada000n },
  ]);
});

test.runIf(process.platform === 'linux')('a process that gave them back needs less memory, and goes on', () => {
  const source = fileURLToPath(new URL('pages.ts', import.meta.url));
  const script = `
    import { readFileSync } from 'node:fs';
    import { releasePages } from ${JSON.stringify(source)};
    const files = () => Number(/RssFile:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
    const before = files();
    const once = new AbortController();
    let times = 0;
    await releasePages({ sleep: async () => { if (times++ > 0) once.abort(); } }, once.signal);
    const after = files();
    const sum = JSON.parse(JSON.stringify(Array.from({ length: 1000 }, (_, index) => index))).reduce((a, b) => a + b);
    console.log(JSON.stringify({ before, after, sum }));`;
  const said = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    cwd: fileURLToPath(new URL('..', import.meta.url)),
  });
  const { before, after, sum } = JSON.parse(said) as Record<'before' | 'after' | 'sum', number>;
  expect(after).toBeLessThan(before / 2);
  expect(sum).toBe(499_500);
});
