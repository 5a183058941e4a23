export type Timer = ReturnType<typeof setTimeout>;

/** A timer that does not keep the process alive; a browser's keeps nothing. */
export function later(milliseconds: number, done: () => void): Timer {
  const timer = setTimeout(done, milliseconds);
  (timer as { unref?: () => void }).unref?.();
  return timer;
}
