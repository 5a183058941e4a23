// Ends the processes that this one started, even when this one is killed hard: a small shell waits at the end of a pipe.
import { type ChildProcess, spawn } from 'node:child_process';

// It reads "+ PID" and "- PID". The pipe ends with the process that holds it; what is left is then asked to end, newest
// first, and killed after five seconds. Every PID is the leader of a process group of its own.
const script = `
trap '' INT TERM HUP
groups=
while read -r action group; do
  kept=
  for one in $groups; do [ "$one" = "$group" ] || kept="$kept $one"; done
  if [ "$action" = + ]; then groups="$group$kept"; else groups=$kept; fi
done
for group in $groups; do kill -TERM "-$group" 2>/dev/null; kill -CONT "-$group" 2>/dev/null; done
for pause in 1 2 3 4 5 6 7 8 9 10; do
  alive=
  for group in $groups; do kill -0 "-$group" 2>/dev/null && alive=1; done
  [ -z "$alive" ] && exit 0
  sleep 0.5
done
for group in $groups; do kill -KILL "-$group" 2>/dev/null; done
`;

const guarded = new Set<number>();
let guard: ChildProcess | undefined;

/** Has the process group of `pid` ended when this process is gone. */
export function protect(pid: number): void {
  guarded.add(pid);
  if (guard === undefined) start();
  else tell(`+ ${pid}`);
}

/** To be called when the process has ended: its number may be given to another. */
export function release(pid: number): void {
  guarded.delete(pid);
  tell(`- ${pid}`);
}

/** The guard's own process, while there is one: it outlives this process until everything guarded has ended. */
export const guardPid = (): number | undefined => guard?.pid;

function start(): void {
  // Windows has neither this shell nor process groups.
  if (process.platform === 'win32') return;
  const child = spawn('/bin/sh', ['-c', script], { detached: true, stdio: ['pipe', 'ignore', 'ignore'], cwd: '/' });
  guard = child;
  child.once('exit', () => {
    guard = undefined;
    if (guarded.size > 0) start();
  });
  child.once('error', (error) => {
    throw new Error('The guard of the started processes could not be started.', { cause: error });
  });
  // A broken pipe is the guard's end, which is handled above.
  child.stdin.on('error', () => {});
  child.unref();
  (child.stdin as unknown as { unref(): void }).unref();
  for (const pid of guarded) tell(`+ ${pid}`);
}

function tell(line: string): void {
  if (guard?.stdin?.writable) guard.stdin.write(`${line}\n`);
}
