import { mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { parsePasswd, Users } from '#users.ts';

test('names by number', () => {
  const names = parsePasswd(
    'root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\n# comment\n\n+nis::::::\nwww-data:x:33:33::/var/www:/x\nbroken\nn:x:x:1\n',
  );
  expect([...names]).toEqual([
    ['0', 'root'],
    ['33', 'www-data'],
  ]);
});

test('a user that was added is known, one that is not there is a number', () => {
  const etc = mkdtempSync(join(tmpdir(), 'fleetreel-etc-'));
  onTestFinished(() => rmSync(etc, { recursive: true }));
  const users = new Users(etc);
  expect(users.name('1000')).toBe('1000');
  writeFileSync(join(etc, 'passwd'), 'a:x:1:1::/:/\n');
  expect(users.name('1000')).toBe('1000');
  writeFileSync(join(etc, 'passwd'), 'a:x:1:1::/:/\nanna:x:1000:1000::/:/\n');
  utimesSync(join(etc, 'passwd'), 1, 1);
  expect(users.name('1000')).toBe('anna');
  expect(users.name('')).toBe('');
});
