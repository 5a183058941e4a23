// What the kernel says of a process: the independent reading, and the yardstick of the figures.
import { readdirSync, readFileSync } from 'node:fs';

/** Nanoseconds of CPU in the first number of a thread's schedstat. */
const threadSeconds = (text: string): number => Number(text.split(' ', 1)[0]) / 1e9;

/**
 * CPU time of a process since its start: its living threads and those of its living children to the nanosecond, and its ended
 * children to the tick (1/100 s).
 */
export function cpuSeconds(pid: number): number {
  let seconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    seconds += threadSeconds(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8'));
    for (const child of readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').match(/\d+/g) ?? [])
      seconds += cpuSecondsOfChild(Number(child));
  }
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // After the name in parentheses, which may contain anything: state is field 3, cutime and cstime 16 and 17.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return seconds + (Number(fields[13]) + Number(fields[14])) / 100;
}

/** As `cpuSeconds`; a child may have ended since it was listed. */
function cpuSecondsOfChild(pid: number): number {
  try {
    return cpuSeconds(pid);
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(String((error as NodeJS.ErrnoException).code))) return 0;
    throw error;
  }
}

/** Resident and private memory of a process, bytes. */
export function memoryOf(pid: number): { resident: number; private: number; anonymous: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const bytes = (key: string) => Number(text.match(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm'))?.[1]) * 1024;
  return {
    resident: bytes('Rss'),
    private: bytes('Private_Clean') + bytes('Private_Dirty'),
    anonymous: bytes('Anonymous'),
  };
}
