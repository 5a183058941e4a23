import { expect, test } from 'vitest';
import { type Command, helpOf, hostFlag, labelFlag, labelsOf, parse, UsageError } from '#command.ts';

const command: Command = {
  usage: 'series TABLE FIELD',
  summary: 'Some rows',
  arguments: ['TABLE', 'FIELD'],
  flags: { host: hostFlag, label: labelFlag, from: { value: 'TIME', help: 'Begin' } },
  run: () => Promise.resolve(),
};
const read = (...argv: string[]) => parse(command, argv, {});

test('arguments and flags are read in any order, and a value may begin with a dash', () => {
  const invocation = read('cpu', '--from', '-1h', '--host', 'a', 'used_percent', '--host=b', '--json');
  expect(invocation).toEqual({
    arguments: ['cpu', 'used_percent'],
    flags: new Map([
      ['from', ['-1h']],
      ['host', ['a', 'b']],
      ['json', ['true']],
    ]),
    address: '127.0.0.1:7601',
    json: true,
  });
});

test('the address is the flag, else the environment, else the default', () => {
  const environment = { FLEETREEL_ADDRESS: '[::1]:1' };
  expect(parse(command, ['a', 'b'], environment)?.address).toBe('[::1]:1');
  expect(parse(command, ['a', 'b', '--address', 'x:2'], environment)?.address).toBe('x:2');
  expect(parse(command, ['a', 'b'], { FLEETREEL_ADDRESS: '' })?.address).toBe('127.0.0.1:7601');
});

test('labels are pairs, and a value may hold an equals sign', () => {
  const invocation = read('a', 'b', '--label', 'core=0', '--label', 'core=1', '--label', 'mount=/a=b');
  expect(invocation && labelsOf(invocation)).toEqual(
    new Map([
      ['core', ['0', '1']],
      ['mount', ['/a=b']],
    ]),
  );
});

test.each([
  [['cpu'], 'FIELD is missing: fleetreel series TABLE FIELD.'],
  [['a', 'b', 'c'], '"c" is one argument too many: fleetreel series TABLE FIELD.'],
  [['a', 'b', '--hots', 'x'], 'There is no flag --hots. Did you mean "--host"?'],
  [['a', 'b', '-x'], 'There is no flag -x.'],
  [['a', 'b', '--host'], 'The flag --host needs a value: --host HOST.'],
  [['a', 'b', '--host', '--json'], 'The flag --host needs a value: --host HOST.'],
  [['a', 'b', '--json=1'], 'The flag --json takes no value.'],
  [['a', 'b', '--from', '1', '--from', '2'], 'The flag --from is given twice.'],
  [['a', 'b', '--constructor'], 'There is no flag --constructor.'],
  [['a', 'b', '--address', 'here'], '"here" is no address of a collector'],
])('%j is refused with a sentence', (argv, message) => {
  expect(() => read(...argv)).toThrow(UsageError);
  expect(() => read(...argv)).toThrow(message);
});

test('a label that is no pair is refused', () => {
  const invocation = read('a', 'b', '--label', 'core');
  expect(() => invocation && labelsOf(invocation)).toThrow("--label core can't be read");
});

test('help names every flag', () => {
  expect(read('--help')).toBeUndefined();
  expect(read('-h')).toBeUndefined();
  for (const name of ['--host HOST', '--from TIME', '--address HOST:PORT', '--json'])
    expect(helpOf(command)).toContain(name);
});
