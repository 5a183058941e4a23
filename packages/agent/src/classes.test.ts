import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SettingsError } from '@fleetreel/proto/settings';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Classify, classifier, globMatches } from '#classes.ts';
import { loadRules } from '#rules.ts';

/** As the agent does with these settings. */
const loadClasses = (rules?: string): Classify => classifier(loadRules(rules));

function file(text: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-classes-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'classes.yaml');
  writeFileSync(path, text);
  return path;
}

/** Of a command line, as a process of that name. */
const of = (classify: Classify, name: string, command = '', unit = ''): string =>
  classify({ names: [name], words: command === '' ? [] : command.split(' '), unit });

test.each([
  ['', '', true],
  ['', 'a', false],
  ['*', '', true],
  ['a*', 'a', true],
  ['a*', 'ba', false],
  ['*a', 'bba', true],
  ['a?c', 'abc', true],
  ['a?c', 'ac', false],
  ['*ab*ab', 'abxabab', true],
  ['*ab*ab', 'abxaba', false],
  ['**', 'x', true],
  ['a.c', 'abc', false],
  ['[ab]', 'a', false],
  ['*\n*', 'a\nb', true],
])('the pattern %j and the text %j', (pattern, text, expected) => {
  expect(globMatches(pattern, text)).toBe(expected);
});

test('a hostile text takes no longer than its length times the length of the pattern', () => {
  const begin = process.cpuUsage();
  expect(globMatches(`${'*a'.repeat(128)}b`, 'a'.repeat(4096))).toBe(false);
  const { user, system } = process.cpuUsage(begin);
  // A backtracking expression would take longer than the universe.
  expect(user + system).toBeLessThan(1_000_000);
});

describe('the rules that are shipped', () => {
  const classify = loadClasses();

  test.each([
    ['hl2_linux', '/srv/steam/steamapps/common/HL2/hl2_linux -game hl2', 'game'],
    ['wine64-preloade', 'Z:\\data\\SteamLibrary\\steamapps\\common\\Portal\\portal2.exe', 'game'],
    ['java', 'java -Xmx2G net.minecraft.client.main.Main', 'game'],
    ['reaper', '/x/reaper SteamLaunch AppId=620 -- /x/steamapps/common/Portal/portal2.sh', 'other'],
    ['ollama', '/usr/local/bin/ollama serve', 'llm'],
    ['llama-server', 'llama-server -m model.gguf', 'llm'],
    ['python3.12', '/opt/venv/bin/python3.12 -m vllm.entrypoints.openai.api_server', 'llm'],
    ['vllm', '/opt/venv/bin/python3 /opt/venv/bin/vllm serve qwen', 'llm'],
    ['VLLM::EngineCor', 'VLLM::EngineCore', 'llm'],
    ['text-generation-launcher', 'text-generation-launcher --model-id x', 'llm'],
    ['python', 'python /srv/constraints.py', 'other'],
    ['python', 'python train_gpt2.py --epochs 3', 'ml_training'],
    ['python3', 'python3 -m torch.distributed.run x.py', 'ml_training'],
    ['vim', 'vim train.py', 'other'],
    ['postgres', 'postgres: walwriter', 'database'],
    ['java', 'java -p questdb.jar -m io.questdb/io.questdb.ServerMain', 'database'],
    ['redis-server', 'redis-server *:6379', 'database'],
    ['psql', 'psql -h db', 'other'],
    ['nginx', 'nginx: worker process', 'web'],
    ['php-fpm8.2', 'php-fpm: pool www', 'web'],
    ['gunicorn', '/usr/bin/python3 /usr/bin/gunicorn app:app', 'web'],
    ['cc1plus', '/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus -quiet a.cc', 'build'],
    ['x86_64-linux-gn', 'x86_64-linux-gnu-gcc-12 -c a.c', 'other'],
    ['x86_64-linux-gnu-gcc-12', '', 'build'],
    ['cargo', 'cargo build', 'build'],
    ['go', 'go test ./...', 'build'],
    ['go', 'go version', 'other'],
    ['clangd', 'clangd --background-index', 'other'],
    ['firefox-esr', '/usr/lib/firefox-esr/firefox-esr', 'browser'],
    ['chrome', '/opt/google/chrome/chrome --type=renderer', 'browser'],
    ['systemd-journald', '/lib/systemd/systemd-journald', 'system'],
    ['containerd-shim-runc-v2', 'containerd-shim-runc-v2 -namespace moby', 'system'],
    ['bash', '-bash', 'other'],
    ['sleep', 'sleep 5', 'other'],
  ])('%s, started as %j, is %s', (name, command, expected) => {
    expect(of(classify, name, command)).toBe(expected);
  });

  test('a unit decides where nothing else does', () => {
    expect(of(classify, 'unheard-of', '', 'systemd-resolved.service')).toBe('system');
    expect(of(classify, 'nginx', '', 'systemd-nginx.service')).toBe('web');
  });

  test('names of any kind are only compared', () => {
    expect(of(classify, '$(reboot)')).toBe('other');
    expect(of(classify, '')).toBe('other');
    expect(of(classify, '*')).toBe('other');
    expect(of(classify, '\u0000\n"')).toBe('other');
  });
});

test("the user's rules come first, the shipped ones after them, and the first that fits decides", () => {
  const classify = loadClasses(
    file(
      '- {class: backup, name: [restic, "borg*"]}\n- {class: other, name: nginx}\n- {class: mine, name: python*, argument: ["*/app.py"], unit: app.service}\n',
    ),
  );
  expect(of(classify, 'BorgBackup')).toBe('backup');
  expect(of(classify, 'nginx')).toBe('other');
  expect(of(classify, 'redis-server')).toBe('database');
  expect(of(classify, 'python3', 'python3 /srv/app.py', 'app.service')).toBe('mine');
  expect(of(classify, 'python3', 'python3 /srv/app.py', 'other.service')).toBe('other');
  expect(of(classify, 'python3', 'python3 /srv/b.py', 'app.service')).toBe('other');
  expect(of(loadClasses(file('')), 'nginx')).toBe('web');
});

test.each([
  ['{class: game}', 'line 1: it has to be a list of rules'],
  ['- game', 'line 1: a rule is "game", and has to be a mapping'],
  ['- class: game\n', 'line 1: a rule needs at least one of name, argument, unit'],
  ['- class: ok\n  name: a\n- class: Big Game\n  name: x\n', 'line 3: class is "Big Game", and has to be a name of'],
  ['- name: x\n', 'line 1: class is missing'],
  ['- class: kernel\n  name: x\n', 'line 1: class "kernel" is for threads of the kernel only'],
  ['- class: game\n  nmae: x\n', 'line 2: a rule has no "nmae". Did you mean "name"?'],
  ['- class: game\n  name:\n    - ok\n    - 7\n', 'line 4: name is 7, and has to be a pattern of 1 to 256 characters'],
  ['- class: game\n  name: ""\n', 'line 2: name is ""'],
  ['- class: game\n  name: []\n', 'line 2: name has no pattern'],
  [`- class: game\n  name: ${'x'.repeat(257)}\n`, 'line 2: name is "xxx'],
  [`- {class: a, name: b}\n`.repeat(1001), 'line 1001: there are more than 1000 rules'],
  [Array.from({ length: 65 }, (_, n) => `- {class: c${n}, name: b}\n`).join(''), 'it has 65 classes'],
  ['- class: game\n  name: [a\n- b: [', 'is not YAML, line'],
  [
    `a: &a [x,x,x,x,x,x,x,x,x]\n${'bcdefghi'.replace(/./g, (c, n: number) => `${c}: &${c} [${`*${'abcdefghi'[n]},`.repeat(9)}]\n`)}`,
    "can't be used: Excessive alias count",
  ],
])('rules that can not be used are refused in one sentence: %j', (text, expected) => {
  const path = file(text);
  const refused = () => loadClasses(path);
  expect(refused).toThrow(SettingsError);
  expect(refused).toThrow(expected);
  expect(refused).toThrow(/^[^\n]+\.$|\?\.$/);
  expect(refused).toThrow(path);
});

test('a file that is not there is said to be so', () => {
  expect(() => loadClasses('/nowhere/classes.yaml')).toThrow(
    "The file of rules /nowhere/classes.yaml can't be read: it does not exist.",
  );
});

test('the agent does not start with rules that can not be used', () => {
  const path = file('- class: game\n  nmae: x\n');
  const main = join(import.meta.dirname, 'main.ts');
  const { status, stderr } = spawnSync(process.execPath, [main, 'check', '--process-rules', path], {
    encoding: 'utf8',
  });
  expect(status).toBe(2);
  expect(stderr).toContain(`The file of rules ${path}, line 2: a rule has no "nmae". Did you mean "name"?`);
});
