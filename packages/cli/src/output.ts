// What a command shows: tables for people, JSON for programs.
import { styleText } from 'node:util';
import { printable } from '@fleetreel/deploy/local/printable';

type Stream = { write(text: string): unknown; isTTY?: boolean; columns?: number };

/** A cell of a table. Text of others is made harmless when it is printed. */
export type Cell = { text: string; tone?: Tone | undefined };
export type Tone = 'good' | 'bad' | 'faint';
export type Column = { title: string; align: 'left' | 'right' };

/** A column is never wider than this: a cell that is pushes the rest of its own line, not of all. */
const columnWidthMost = 120;
/** Characters of a cell that are shown; JSON has all of them. */
const cellCharactersMost = 500;

const styles = { good: 'green', bad: 'red', faint: 'dim' } as const;

export class Output {
  readonly #stream: Stream;
  readonly #color: boolean;
  /** Columns of the terminal; without a terminal nothing is ever too wide. */
  readonly width: number;

  constructor(stream: Stream, environment: Readonly<Record<string, string | undefined>>) {
    this.#stream = stream;
    this.#color = stream.isTTY === true && !environment.NO_COLOR && environment.TERM !== 'dumb';
    this.width = (stream.isTTY && stream.columns) || Number.POSITIVE_INFINITY;
  }

  /** One line of text. */
  line(text: string, tone?: Tone): void {
    this.#stream.write(`${this.#paint(printable(text), tone)}\n`);
  }

  /** One JSON value on a line of its own. What could do something to a terminal is escaped: the value is the same. */
  json(value: unknown): void {
    const text = JSON.stringify(value).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
      // Half by half, where it takes two.
      character
        .split('')
        .map((half) => `\\u${half.charCodeAt(0).toString(16).padStart(4, '0')}`)
        .join(''),
    );
    this.#stream.write(`${text}\n`);
  }

  /** A table with aligned columns; two spaces between them and no space at the line's end. */
  table(columns: readonly Column[], rows: readonly (readonly Cell[])[]): void {
    const widths = widthsOf(columns, rows);
    const line = (cells: readonly Cell[]) =>
      cells
        .map(({ text, tone }, index) => {
          const shown = cellText(text);
          const space = ' '.repeat(Math.max(0, (widths[index] ?? 0) - cellWidth(shown)));
          if (columns[index]?.align === 'right') return space + this.#paint(shown, tone);
          return this.#paint(shown, tone) + (index === columns.length - 1 ? '' : space);
        })
        .join('  ')
        .trimEnd();
    this.#stream.write(`${line(columns.map(({ title }) => ({ text: title, tone: 'faint' })))}\n`);
    for (const row of rows) this.#stream.write(`${line(row)}\n`);
  }

  #paint(text: string, tone: Tone | undefined): string {
    return this.#color && tone ? styleText(styles[tone], text, { validateStream: false }) : text;
  }
}

/** How wide a table would be, in columns of the terminal. */
export function tableWidth(columns: readonly Column[], rows: readonly (readonly Cell[])[]): number {
  return widthsOf(columns, rows).reduce((sum, width) => sum + width + 2, -2);
}

function widthsOf(columns: readonly Column[], rows: readonly (readonly Cell[])[]): number[] {
  return columns.map(({ title }, index) =>
    rows.reduce(
      (most, row) => Math.min(columnWidthMost, Math.max(most, cellWidth(cellText(row[index]?.text ?? '')))),
      cellWidth(title),
    ),
  );
}

/** What is shown of a text: harmless, and not endless. */
function cellText(text: string): string {
  if (text.length <= cellCharactersMost) return printable(text);
  return `${printable(text.slice(0, cellCharactersMost).toWellFormed())}... (${text.length} characters)`;
}

const graphemes = new Intl.Segmenter(undefined, { granularity: 'grapheme' });
/** Scripts and signs whose characters take two columns of a terminal. */
const wide =
  /^[\p{Script=Han}\p{Script=Hangul}\p{Script=Hiragana}\p{Script=Katakana}\p{Emoji_Presentation}\uFF01-\uFF60]/u;

/** Columns that a text takes on a terminal. */
export function cellWidth(text: string): number {
  if (/^[\x20-\x7e]*$/.test(text)) return text.length;
  let width = 0;
  for (const { segment } of graphemes.segment(text)) width += wide.test(segment) ? 2 : 1;
  return width;
}
