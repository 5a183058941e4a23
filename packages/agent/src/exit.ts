/**
 * Ends the process, also while a call to a file system does not come back: the orderly end waits for the thread that makes
 * such a call, which is for ever where an NFS server is dead.
 */
export async function exit(code: number): Promise<never> {
  // What is still in a pipe is waited for.
  await new Promise((resolve) => process.stdout.write('', resolve));
  if (process.platform !== 'win32' && process.getActiveResourcesInfo().includes('FSReqCallback')) await endAtOnce(code);
  process.exit(code);
}

/** Leaves by the system call, past everything that waits; returns only where that can't be had. */
async function endAtOnce(code: number): Promise<void> {
  try {
    const { default: koffi } = await import('koffi');
    koffi.load(null).func('void _exit(int code)')(code);
  } catch (cause) {
    console.error(`A file system does not answer, and the agent waits for it before it ends: ${String(cause)}`);
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
