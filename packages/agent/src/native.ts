import type koffi from 'koffi';
import { nativeStackBytes } from '#limits.ts';

/** Calls of native libraries on other threads that have not come back. */
export const nativeCalls = { underWay: 0 };

/**
 * What calls native libraries: everything here loads it by this, and only when it is needed, since it takes some megabytes.
 * @throws Error where there is none for this platform
 */
export async function loadKoffi(): Promise<typeof koffi> {
  const loaded = (await import('koffi')).default;
  // Before the first library is loaded. By itself it gives a call on another thread 128 KiB of stack, which drivers exceed.
  if (loaded.config().async_stack_size !== nativeStackBytes)
    loaded.config({ ...loaded.config(), async_stack_size: nativeStackBytes, resident_async_pools: 1 });
  return loaded;
}
