// Every URL of the console.
import { resolve } from '$app/paths';

/** The overview; `carried` is what stays of the view (`View.carried`). */
export const hostsLink = (carried = ''): string => `${resolve('/hosts')}${carried}`;

/** The page of a host. */
export const hostLink = (host: string, carried = ''): string => `${resolve('/hosts/[host]', { host })}${carried}`;

/** What happened on all hosts. */
export const eventsLink = (carried = ''): string => `${resolve('/events')}${carried}`;

/** Events that applications wrote. */
export const customEventsLink = (carried = ''): string => `${resolve('/events/applications')}${carried}`;

/** Measures that applications wrote. */
export const measuresLink = (carried = ''): string => `${resolve('/measures')}${carried}`;

/** Where one signs in; afterwards it goes on to `next`, an address of the console. */
export const loginLink = (next = ''): string =>
  `${resolve('/login')}${next === '' ? '' : `?${new URLSearchParams({ next })}`}`;

/** A one-time link: its code is in the fragment, which no browser sends. */
export const welcomeLink = (origin: string, code: string): string => `${origin}${resolve('/welcome')}#${code}`;

/** Where to go after signing in: what was asked for if that is a page of the console, else the overview. */
export function nextLink(next: string | null, origin: string): string {
  if (next === null || !next.startsWith('/') || !URL.canParse(next, origin)) return hostsLink();
  // `//elsewhere` and `/\\elsewhere` are other origins.
  const url = new URL(next, origin);
  if (url.origin !== origin || ['/login', '/welcome'].includes(url.pathname)) return hostsLink();
  return `${url.pathname}${url.search}`;
}

/** The settings: one's own account first. */
export const settingsLink = (carried = ''): string => `${resolve('/settings')}${carried}`;

/** One page of the settings. */
export const settingLink = (name: Setting, carried = ''): string => `${resolve('/settings')}/${name}${carried}`;
export type Setting = 'account' | 'users' | 'keys' | 'agents' | 'audit';

/** The reference of the HTTP interface, served by the collector. */
export const docsLink = '/docs';
