// Which frames were seen. The log may hold one twice, and whoever reads it takes each once.

/** Sequences of one session that were seen: stretches without gaps, in order. */
type Stretches = { first: number; last: number }[];

/** Frames by host, session and sequence. What a session sends without gaps takes one stretch, however long. */
export class Seen {
  readonly #sessions = new Map<string, Stretches>();
  readonly #stretchesMax: number;
  #stretches = 0;

  /** @param stretchesMax stretches that are remembered; beyond, those of the session that is longest known are forgotten */
  constructor(stretchesMax: number) {
    this.#stretchesMax = stretchesMax;
  }

  /** Notes a frame; false where it was noted before. Where tenants meet, the host comes with its own. */
  add(host: string, session: string, sequence: number): boolean {
    const key = `${host} ${session}`;
    let known = this.#sessions.get(key);
    if (known === undefined) {
      known = [];
      this.#sessions.set(key, known);
    }
    const newest = known.at(-1);
    // Nearly always it is the next one.
    if (newest?.last === sequence - 1) {
      newest.last = sequence;
      return true;
    }
    const place = placeOf(known, sequence);
    const before = known[place - 1];
    if (before && before.last >= sequence) return false;
    const after = known[place];
    const joinsBefore = before?.last === sequence - 1;
    const joinsAfter = after?.first === sequence + 1;
    if (before && joinsBefore) {
      before.last = after && joinsAfter ? after.last : sequence;
      if (joinsAfter) {
        known.splice(place, 1);
        this.#stretches--;
      }
    } else if (after && joinsAfter) after.first = sequence;
    else {
      known.splice(place, 0, { first: sequence, last: sequence });
      this.#bound(key);
    }
    return true;
  }

  #bound(current: string): void {
    if (++this.#stretches <= this.#stretchesMax) return;
    for (const [key, { length }] of this.#sessions) {
      if (key === current) continue;
      this.#sessions.delete(key);
      this.#stretches -= length;
      return;
    }
  }
}

/** How many stretches begin at this sequence or before it. */
function placeOf(known: Stretches, sequence: number): number {
  let [low, high] = [0, known.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((known[middle] as Stretches[number]).first > sequence) high = middle;
    else low = middle + 1;
  }
  return low;
}
