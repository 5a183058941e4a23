// Reads the few lines of a Prometheus page that are wanted. A library would build an object for each of its thousand
// lines, and none of those that are kept up reads a page line by line and leaves out what is broken.

/** One line: `name{label="value"} value`. */
export type Sample = { name: string; labels: Readonly<Record<string, string>>; value: number };

const line = /^([A-Za-z_:][\w:]*)(\{.*\})?\s+(\S+)(?:\s+-?\d+)?\s*$/;
const label = /([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"/g;

/**
 * The samples whose names begin with the prefix, in the page's order. Lines that are none are left out.
 * @see https://prometheus.io/docs/instrumenting/exposition_formats/
 */
export function parsePage(page: string, prefix: string): Sample[] {
  const samples: Sample[] = [];
  for (let start = 0; start < page.length; ) {
    const found = page.indexOf('\n', start);
    const end = found < 0 ? page.length : found;
    if (page.startsWith(prefix, start)) {
      const parts = line.exec(page.slice(start, end));
      const value = number(parts?.[3]);
      if (parts && value !== undefined)
        samples.push({ name: parts[1] as string, labels: labelsOf(parts[2] ?? ''), value });
    }
    start = end + 1;
  }
  return samples;
}

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = Object.create(null);
  for (const [, name = '', value = ''] of text.matchAll(label))
    labels[name] = value.includes('\\')
      ? value.replace(/\\(.)/gs, (_, escaped: string) => (escaped === 'n' ? '\n' : escaped))
      : value;
  return labels;
}

function number(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\+?Inf$/i.test(text)) return Number.POSITIVE_INFINITY;
  if (/^-Inf$/i.test(text)) return Number.NEGATIVE_INFINITY;
  if (/^NaN$/i.test(text)) return Number.NaN;
  return /^[+-]?(\d|\.\d)/.test(text) && !Number.isNaN(Number(text)) ? Number(text) : undefined;
}
