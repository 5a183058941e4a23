// What became of the frames of each kind of fault, as a table.

/** Frames of one fault: how many were sampled, and what became of them. */
export type Fate = {
  /** Handed to the publisher. */
  sent: number;
  stored: number;
  /** Acknowledged, and not stored. */
  lost: number;
  doubled: number;
  /** Never acknowledged and not stored, which is told with a cause: a row of losses, a dead letter, or a hole in the coverage. */
  inLedger: number;
};

const columns = ['fault', 'times', 'sent', 'stored', 'lost (acknowledged)', 'doubled', 'in the ledger'] as const;

export class Tally {
  readonly #faults = new Map<string, Fate & { times: number }>();

  add(fault: string, fate: Fate): void {
    const sum = this.#faults.get(fault) ?? { times: 0, sent: 0, stored: 0, lost: 0, doubled: 0, inLedger: 0 };
    this.#faults.set(fault, {
      times: sum.times + 1,
      sent: sum.sent + fate.sent,
      stored: sum.stored + fate.stored,
      lost: sum.lost + fate.lost,
      doubled: sum.doubled + fate.doubled,
      inLedger: sum.inLedger + fate.inLedger,
    });
  }

  /** One line for each fault, and their sum where there are several. */
  get lines(): string[] {
    const all = [...this.#faults].map(
      ([fault, { times, sent, stored, lost, doubled, inLedger }]) =>
        [fault, times, sent, stored, lost, doubled, inLedger] as const,
    );
    const sums = columns.slice(1).map((_, place) => all.reduce((sum, row) => sum + Number(row[place + 1]), 0));
    const rows = [columns, ...all, ...(all.length > 1 ? [['all', ...sums]] : [])].map((row) =>
      row.map((cell) => (typeof cell === 'number' ? cell.toLocaleString('en') : cell)),
    );
    const widths = columns.map((_, place) => Math.max(...rows.map((row) => row[place]?.length ?? 0)));
    return rows.map((row) =>
      row
        .map((cell, place) => (place === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[place] ?? 0)))
        .join('  '),
    );
  }
}
