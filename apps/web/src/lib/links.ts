// Every URL of the console.
import { resolve } from '$app/paths';

/** The overview; `carried` is what stays of the view (`View.carried`). */
export const hostsLink = (carried = ''): string => `${resolve('/hosts')}${carried}`;

/** The page of a host. */
export const hostLink = (host: string, carried = ''): string => `${resolve('/hosts/[host]', { host })}${carried}`;

/** What happened on all hosts. */
export const eventsLink = (carried = ''): string => `${resolve('/events')}${carried}`;

/** The reference of the HTTP interface, served by the collector. */
export const docsLink = '/docs';
