import { expect, test } from 'vitest';
import { Passwords } from '#access/password.ts';
import { makeSecret, parseSecret } from '#access/secret.ts';
import { passwordsWaitingFromMax, passwordsWaitingMax } from '#limits.ts';

const kept = async (password: string) => await new Passwords().hash(password, 'a', 0);

test('a password is right and another is not, and what is kept says how it was made', async () => {
  const passwords = new Passwords();
  const hash = await kept('correct horse battery');
  expect(hash).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$[\w+/]{22}\$[\w+/]{43}$/);
  expect(await passwords.isRight('correct horse battery', hash, 'a', 0)).toBe(true);
  expect(await passwords.isRight('correct horse batterz', hash, 'a', 0)).toBe(false);
  expect(await passwords.isRight('correct horse battery', null, 'a', 0)).toBe(false);
  expect(await kept('correct horse battery')).not.toBe(hash);
});

test('the same text in other code points is the same password', async () => {
  expect(await new Passwords().isRight('cafe\u0301 au lait', await kept('caf\u00e9 au lait'), 'a', 0)).toBe(true);
});

test('who tries much from one network is refused, and has no place of the others', async () => {
  const passwords = new Passwords();
  const tries = Array.from({ length: 20 }, () => passwords.isRight('wrong', null, 'attacker', 1));
  const order: string[] = [];
  const other = passwords.isRight('x', null, 'other', 1).then(() => order.push('other'));
  const known = passwords.isRight('x', null, 'known', 0).then(() => order.push('known'));
  const results = await Promise.allSettled(tries);
  expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(passwordsWaitingFromMax + 1);
  for (const result of results)
    if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'too_many_sign_ins' });
  await Promise.all([other, known]);
  expect(order).toEqual(['known', 'other']);
});

test('who has not tried before is not kept out by many networks that have', async () => {
  const passwords = new Passwords();
  const order: string[] = [];
  const tries = Array.from({ length: 2 * passwordsWaitingMax }, (_, index) =>
    passwords.isRight('wrong', null, `attacker-${index}`, 2).then(() => order.push('attacker')),
  );
  const newcomer = passwords.isRight('x', null, 'newcomer', 1).then(() => order.push('newcomer'));
  const results = await Promise.allSettled(tries);
  await newcomer;
  // One is hashed at once, and one of those that waited made room.
  expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(passwordsWaitingMax);
  expect(order.indexOf('newcomer')).toBe(1);
  // Nobody's place is lost: the next has it at once.
  expect(await passwords.isRight('x', null, 'later', 1)).toBe(false);
});

test('a secret is parsed as it was made, and nothing else is', () => {
  const { id, text, digest } = makeSecret('key');
  expect(text).toMatch(/^frk_[0-9a-f]{16}_[\w-]{43}$/);
  expect(parseSecret(text)).toEqual({ kind: 'key', id, digest });
  expect(digest).not.toContain(text.slice(21));
  for (const bad of ['', text.slice(1), `${text}x`, text.replace('frk', 'frx'), ` ${text}`, text.replace('_', '-')])
    expect(parseSecret(bad)).toBeUndefined();
});
