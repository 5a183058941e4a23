// How fast this machine is now: what is promised of one that has little else to do is asked of a slower or busier one in its own time.

/** Milliseconds that the piece of work below takes on the machine that promises are made for, with nothing beside it. */
const promised_ms = 30;

function work(): number {
  let sum = 0;
  for (let step = 0; step < 20_000_000; step++) sum = Math.imul(sum + step, 1_664_525) ^ (sum >>> 7);
  return sum;
}

/** By how much a fixed piece of CPU work takes longer now than where promises are made for; 1 at least. */
export function slowness(): number {
  // The first is also compiled.
  work();
  const times = 10;
  const begin = performance.now();
  for (let time = 0; time < times; time++) work();
  return Math.max(1, (performance.now() - begin) / times / promised_ms);
}
