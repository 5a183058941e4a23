import { seenStretchesMax } from '#limits.ts';

/** Sequences of one session that were played: stretches without gaps, in order. */
type Stretches = { first: number; last: number }[];

/** Which frames were played: by host, session and sequence. What a session sends without gaps takes one stretch, however long. */
export class Seen {
  readonly #sessions = new Map<string, Stretches>();
  #stretches = 0;

  /** Notes a frame; false where it was noted before. */
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
    let place = known.length;
    while (place > 0 && (known[place - 1] as Stretches[number]).first > sequence) place--;
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
    if (++this.#stretches <= seenStretchesMax) return;
    for (const [key, { length }] of this.#sessions) {
      if (key === current) continue;
      this.#sessions.delete(key);
      this.#stretches -= length;
      return;
    }
  }
}
