// Lines that wait, the oldest first.

export type Line = {
  text: string;
  /** As it will be sent, with its end of line. */
  bytes: number;
};

/** A first-in first-out queue of lines that knows its bytes. */
export class Queue {
  #lines: (Line | undefined)[] = [];
  /** Where the oldest is: what is before it has been taken. */
  #head = 0;
  #bytes = 0;

  get count(): number {
    return this.#lines.length - this.#head;
  }

  get bytes(): number {
    return this.#bytes;
  }

  push(line: Line): void {
    this.#lines.push(line);
    this.#bytes += line.bytes;
  }

  /** Bytes of the oldest; 0 when there is none. */
  get oldestBytes(): number {
    return this.#lines[this.#head]?.bytes ?? 0;
  }

  /** Takes the oldest. */
  shift(): Line | undefined {
    const line = this.#lines[this.#head];
    if (line === undefined) return undefined;
    this.#lines[this.#head++] = undefined;
    this.#bytes -= line.bytes;
    // An array's own shift() moves all of it; so half of it is moved once in a while.
    if (this.#head > 1024 && this.#head * 2 > this.#lines.length) {
      this.#lines = this.#lines.slice(this.#head);
      this.#head = 0;
    }
    return line;
  }

  /** Takes the oldest, as many as fit: at least one if there is one that fits. */
  take(countMax: number, bytesMax: number): Line[] {
    const lines: Line[] = [];
    let bytes = 0;
    while (lines.length < countMax && this.count > 0 && bytes + this.oldestBytes <= bytesMax) {
      const line = this.shift();
      if (line === undefined) break;
      bytes += line.bytes;
      lines.push(line);
    }
    return lines;
  }
}

/** Bytes of a text in UTF-8, without making them. */
export function utf8Bytes(text: string): number {
  let bytes = text.length;
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    if (unit < 0x80) continue;
    bytes++;
    // A pair of surrogates is four bytes in two units: JSON.stringify writes a lone one as an escape.
    if (unit >= 0x800 && (unit < 0xd800 || unit > 0xdfff)) bytes++;
  }
  return bytes;
}
