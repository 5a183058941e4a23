// What is looked at, and how: all of it is in the URL, so that a reload, a bookmark or a link shows the same.
import type { Zone } from '#lib/format.ts';

export const ranges = ['5m', '15m', '1h', '6h', '24h', '7d', '30d'] as const;
export const views = ['avg', 'max'] as const;
export const layouts = ['grid', 'table'] as const;
export const themes = ['system', 'light', 'dark'] as const;

export type ViewState = {
  /** A relative range that ends now: a number and s, m, h or d. */
  range: string;
  /** A fixed range in milliseconds since 1970, instead of the relative one. */
  fixed: { from: number; to: number } | null;
  /** Whether a relative range follows the time. */
  live: boolean;
  agg: (typeof views)[number];
  zone: Zone;
  layout: (typeof layouts)[number];
  search: string;
  /** A column of the overview, with `-` in front for descending. */
  sort: string;
  /** Sections that are closed. */
  closed: readonly string[];
  /** By table: the only entities that are drawn. */
  only: Readonly<Record<string, readonly string[]>>;
  /** By table: the column that its rows are sorted by, with `-` in front for descending. */
  order: Readonly<Record<string, string>>;
  /** By table: the words that its rows must have. */
  find: Readonly<Record<string, string>>;
  /** Tables that show all their columns. */
  wide: readonly string[];
  /** Of events: the only kinds that are shown, and the only hosts. */
  kinds: readonly string[];
  hosts: readonly string[];
  /** What else a page asks for, by what it calls it: names, conditions, who did something. */
  ask: Readonly<Record<string, readonly string[]>>;
};

export const initial: ViewState = {
  range: '15m',
  fixed: null,
  live: true,
  agg: 'avg',
  zone: 'local',
  layout: 'grid',
  search: '',
  sort: 'host',
  closed: [],
  only: {},
  order: {},
  find: {},
  wide: [],
  kinds: [],
  hosts: [],
  ask: {},
};

const unitMilliseconds: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
/** Bounds of a range, milliseconds: below, there are no points; above, nothing is kept. */
const rangeShortest = 10_000;
const rangeLongest = 3 * 365 * 86_400_000;

/** Milliseconds of `15m`, `1h`, `7d`; undefined when it is none. */
export function rangeMilliseconds(text: string): number | undefined {
  const match = /^(\d{1,9})([smhd])$/.exec(text);
  const length = match ? Number(match[1]) * (unitMilliseconds[match[2] as string] as number) : 0;
  return length >= rangeShortest && length <= rangeLongest ? length : undefined;
}

/** The view that a URL's parameters describe. What makes no sense is as if it were not there. */
export function readView(parameters: URLSearchParams): ViewState {
  const one = <T extends string>(name: string, values: readonly T[], otherwise: T): T =>
    values.find((value) => value === parameters.get(name)) ?? otherwise;
  const range = parameters.get('range') ?? initial.range;
  const from = moment(parameters.get('from'));
  const to = moment(parameters.get('to'));
  const tables = <T>(prefix: string, read: (value: string) => T): Record<string, T> =>
    Object.fromEntries(
      [...parameters].flatMap(([name, value]) =>
        name.startsWith(prefix) ? [[name.slice(prefix.length), read(value)]] : [],
      ),
    );
  return {
    range: rangeMilliseconds(range) ? range : initial.range,
    fixed: from !== null && to !== null && to - from >= 1000 ? { from, to } : null,
    live: parameters.get('live') !== 'off',
    agg: one('agg', views, initial.agg),
    zone: one('zone', ['local', 'utc'], initial.zone),
    layout: one('layout', layouts, initial.layout),
    search: parameters.get('search') ?? '',
    sort: parameters.get('sort') ?? initial.sort,
    closed: list(parameters.get('closed')),
    only: tables('only.', list),
    order: tables('sort.', String),
    find: tables('find.', String),
    wide: list(parameters.get('wide')),
    kinds: list(parameters.get('kind')),
    hosts: list(parameters.get('host')),
    ask: tables('q.', list),
  };
}

/** The parameters of a view; what is as initially is left out. */
export function writeView(state: ViewState): URLSearchParams {
  const parameters = new URLSearchParams();
  const put = (name: string, value: string, otherwise: string) => {
    if (value !== otherwise) parameters.set(name, value);
  };
  if (state.fixed) {
    parameters.set('from', new Date(state.fixed.from).toISOString());
    parameters.set('to', new Date(state.fixed.to).toISOString());
  } else {
    if (!state.live) parameters.set('live', 'off');
  }
  put('range', state.range, initial.range);
  put('agg', state.agg, initial.agg);
  put('zone', state.zone, initial.zone);
  put('layout', state.layout, initial.layout);
  put('search', state.search, '');
  put('sort', state.sort, initial.sort);
  const lists = { closed: state.closed, wide: state.wide, kind: state.kinds, host: state.hosts };
  for (const [name, values] of Object.entries(lists)) put(name, values.map(encodeURIComponent).join(','), '');
  for (const [table, values] of Object.entries(state.only))
    put(`only.${table}`, values.map(encodeURIComponent).join(','), '');
  for (const [name, values] of Object.entries(state.ask))
    put(`q.${name}`, values.map(encodeURIComponent).join(','), '');
  for (const [table, order] of Object.entries(state.order)) put(`sort.${table}`, order, '');
  for (const [table, words] of Object.entries(state.find)) put(`find.${table}`, words, '');
  return parameters;
}

function moment(text: string | null): number | null {
  if (!text) return null;
  const time = /^\d{12,14}$/.test(text) ? Number(text) : Date.parse(text);
  return Number.isFinite(time) ? time : null;
}

function list(text: string | null): string[] {
  return (text ?? '')
    .split(',')
    .filter((part) => part !== '')
    .map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    });
}

/** What is fetched: it changes only when other data is wanted, not while time goes by. */
export type Scope = {
  key: string;
  /** Length of a range that follows the time; else null, and from and to say which. */
  liveRange: number | null;
  from: number;
  to: number;
  agg: 'avg' | 'max';
};

/** Where the view is kept: the current URL, and how to change it. */
export type Address = {
  url: () => { href: string; search: string };
  go: (url: URL, options: { replace: boolean }) => Promise<void>;
};

export class View {
  readonly #address: Address;
  /** The right edge of a relative range. */
  #now = $state(Date.now());
  #refreshes = $state(0);
  /** The collector's clock less the browser's, milliseconds. */
  #skew = 0;
  #advancedAt = 0;
  #theme = $state<(typeof themes)[number]>('system');
  #systemDark = $state(false);

  /** The parameters that were set, until the address has them: changes in quick succession build on each other. */
  #ahead = $state<string | null>(null);
  #changes = 0;

  readonly #search = $derived.by(() => this.#ahead ?? this.#address.url().search);
  /** The view as the URL has it. */
  readonly state: ViewState = $derived(readView(new URLSearchParams(this.#search)));
  /** Whether the range follows the time. */
  readonly live = $derived(this.state.live && !this.state.fixed);
  readonly #length = $derived(rangeMilliseconds(this.state.range) as number);
  /** The stretch of time that is shown, milliseconds since 1970. */
  readonly window = $derived(this.state.fixed ?? { from: this.#now - this.#length, to: this.#now });
  readonly #scopeKey = $derived(
    JSON.stringify({
      liveRange: this.live ? this.#length : null,
      from: this.live ? 0 : this.window.from,
      to: this.live ? 0 : this.window.to,
      agg: this.state.agg,
      refreshes: this.#refreshes,
    }),
  );
  /** What is fetched for this view. */
  readonly scope: Scope = $derived({
    ...(JSON.parse(this.#scopeKey) as Omit<Scope, 'key'>),
    key: this.#scopeKey,
  });
  readonly theme = $derived(this.#theme);
  readonly dark = $derived(this.#theme === 'dark' || (this.#theme === 'system' && this.#systemDark));

  constructor(address: Address) {
    this.#address = address;
  }

  /** The collector's time, milliseconds since 1970. */
  get now(): number {
    return Date.now() + this.#skew;
  }

  /** The parameters that another page should be opened with: range, clock and aggregation stay. */
  get carried(): string {
    const { range, fixed, live, agg, zone } = this.state;
    const text = writeView({ ...initial, range, fixed, live, agg, zone }).toString();
    return text && `?${text}`;
  }

  /** Changes the view through the URL; `replace` leaves no step to go back to. */
  set(change: Partial<ViewState>, replace = false): void {
    const url = new URL(this.#address.url().href);
    const theme = url.searchParams.get('theme');
    const parameters = writeView({ ...this.state, ...change });
    if (theme) parameters.set('theme', theme);
    url.search = parameters.toString();
    this.#go(url, replace);
  }

  /** Shows a relative range and follows the time. */
  follow(range: string = this.state.range): void {
    this.#now = this.now;
    this.set({ range, fixed: null, live: true });
  }

  /** Stops following: the range stands where it is. */
  pause(): void {
    this.set({ live: false });
  }

  toggleLive(): void {
    if (this.live) this.pause();
    else this.follow();
  }

  /** Fetches again what is shown; a relative range ends now. */
  refresh(): void {
    this.#now = this.now;
    this.#refreshes++;
  }

  /** Shows a fixed range; one that reaches into the future ends now. */
  fix(from: number, to: number): void {
    const length = Math.max(rangeShortest, Math.min(rangeLongest, to - from));
    const end = Math.min(Math.round(to), Math.ceil(this.now));
    this.set({ fixed: { from: Math.round(end - length), to: end } });
  }

  /** Moves the range by this share of its length; past the present it follows the time again. */
  move(share: number): void {
    const { from, to } = this.window;
    const shift = (to - from) * share;
    if (this.live && share > 0) return;
    if (to + shift >= this.now && this.#isPreset(to - from)) this.follow();
    else this.fix(from + shift, to + shift);
  }

  /** Makes the range longer (factor above 1) or shorter; a relative one takes the next preset. */
  zoom(factor: number): void {
    if (!this.state.fixed) {
      const longer = ranges.filter((range) => (rangeMilliseconds(range) as number) > this.#length);
      const shorter = ranges.filter((range) => (rangeMilliseconds(range) as number) < this.#length);
      const next = factor > 1 ? longer[0] : shorter.at(-1);
      if (next) this.set({ range: next });
      return;
    }
    const { from, to } = this.window;
    const half = ((to - from) / 2) * factor;
    const middle = (from + to) / 2;
    this.fix(middle - half, middle + half);
  }

  /** Opens or closes a section. */
  toggleSection(id: string): void {
    const { closed } = this.state;
    this.set({ closed: closed.includes(id) ? closed.filter((other) => other !== id) : [...closed, id] }, true);
  }

  /** Sorts the rows of a table. */
  sortTable(table: string, order: string): void {
    this.set({ order: { ...this.state.order, [table]: order } }, true);
  }

  /** Shows only rows of a table that have these words. */
  findIn(table: string, words: string): void {
    this.set({ find: { ...this.state.find, [table]: words } }, true);
  }

  /** Asks a page for this; nothing means all. */
  askFor(name: string, values: readonly string[]): void {
    const { [name]: _, ...rest } = this.state.ask;
    const asked = values.filter((value) => value !== '');
    this.set({ ask: asked.length > 0 ? { ...rest, [name]: asked } : rest }, true);
  }

  /** Shows all columns of a table, or those that are looked for most. */
  widen(table: string): void {
    const { wide } = this.state;
    this.set({ wide: wide.includes(table) ? wide.filter((other) => other !== table) : [...wide, table] }, true);
  }

  /** Draws only these entities of a table; none means all. */
  select(table: string, entities: readonly string[]): void {
    const { [table]: _, ...rest } = this.state.only;
    this.set({ only: entities.length > 0 ? { ...rest, [table]: entities } : rest });
  }

  /** Tells that this moment has been reached, so that a live range moves on. */
  advance(time: number): void {
    this.#advancedAt = Date.now();
    if (this.live && time > this.#now) this.#now = time;
  }

  /** What the collector says is now, to the second. */
  synchronize(collectorNow: number): void {
    const skew = collectorNow - Date.now();
    // Less is the way of the answer and the cut-off part of the second.
    this.#skew = Math.abs(skew) < skewLeast ? 0 : skew;
  }

  setTheme(theme: (typeof themes)[number]): void {
    this.#theme = theme;
    applyTheme(theme);
    remember(theme);
    const url = new URL(this.#address.url().href);
    if (!url.searchParams.has('theme')) return;
    url.searchParams.delete('theme');
    this.#go(url, true);
  }

  /** Keeps time and theme going until the returned function is called. */
  start(): () => void {
    const asked = themes.find((theme) => theme === new URLSearchParams(location.search).get('theme'));
    this.#theme = asked ?? remembered();
    applyTheme(this.#theme);
    const system = matchMedia('(prefers-color-scheme: dark)');
    const follow = () => {
      this.#systemDark = system.matches;
    };
    follow();
    system.addEventListener('change', follow);
    // Without frames (a host is offline) time goes on as well, only slower: the growing gap is seen.
    const timer = setInterval(() => {
      if (this.live && Date.now() - this.#advancedAt > idleAdvance && document.visibilityState === 'visible')
        this.advance(this.now);
    }, idleAdvance / 2);
    return () => {
      system.removeEventListener('change', follow);
      clearInterval(timer);
    };
  }

  #go(url: URL, replace: boolean): void {
    const change = ++this.#changes;
    this.#ahead = url.search;
    const done = () => {
      if (change === this.#changes) this.#ahead = null;
    };
    this.#address.go(url, { replace }).then(done, done);
  }

  #isPreset(length: number): boolean {
    return Math.abs(length - this.#length) < 1000;
  }
}

/** Clocks that differ by less are taken as equal, milliseconds. */
const skewLeast = 3_000;
/** How often a live range moves on when no frames arrive, milliseconds. */
const idleAdvance = 10_000;
const themeKey = 'fleetreel.theme';

function applyTheme(theme: (typeof themes)[number]): void {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function remembered(): (typeof themes)[number] {
  try {
    return themes.find((theme) => theme === localStorage.getItem(themeKey)) ?? 'system';
  } catch {
    // Storage may be forbidden: then the system's theme is shown.
    return 'system';
  }
}

function remember(theme: (typeof themes)[number]): void {
  try {
    if (theme === 'system') localStorage.removeItem(themeKey);
    else localStorage.setItem(themeKey, theme);
  } catch {
    // Storage may be forbidden: the choice then lasts until the page is left.
  }
}
