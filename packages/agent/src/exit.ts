import { loadKoffi, nativeCalls } from '#native.ts';

/**
 * Ends the process, also while a call to a file system or a driver does not come back: the orderly end waits for the thread
 * that makes such a call, which is for ever where an NFS server is dead, or a GPU hangs.
 */
export async function exit(code: number): Promise<never> {
  // What is still in a pipe is waited for.
  await new Promise((resolve) => process.stdout.write('', resolve));
  if (process.platform !== 'win32' && waitsForThreads()) await endAtOnce(code);
  process.exit(code);
}

const waitsForThreads = (): boolean =>
  nativeCalls.underWay > 0 || process.getActiveResourcesInfo().includes('FSReqCallback');

/** Leaves by the system call, past everything that waits; returns only where that can't be had. */
async function endAtOnce(code: number): Promise<void> {
  try {
    const koffi = await loadKoffi();
    koffi.load(null).func('void _exit(int code)')(code);
  } catch (cause) {
    console.error(`Something does not answer, and the agent waits for it before it ends: ${String(cause)}`);
  }
}

/** Aborted when the process is asked to end. */
export function untilAsked(): AbortSignal {
  const stopping = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => {
      // Somebody who asks twice does not want to wait.
      if (stopping.signal.aborted) void exit(1);
      stopping.abort();
    });
  return stopping.signal;
}
