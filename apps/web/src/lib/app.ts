// What the root layout makes once and every component may ask for.
import { createContext } from 'svelte';
import type { Api } from '#lib/api.ts';
import type { Contract, Fleet } from '#lib/fleet.svelte.ts';
import type { Live } from '#lib/live.svelte.ts';
import type { Session } from '#lib/session.svelte.ts';
import type { View } from '#lib/view.svelte.ts';

/** What there is before anybody has signed in. */
export type Door = {
  api: Api;
  session: Session;
  view: View;
  /** Requests under way. */
  pending: () => number;
};

export type App = Door & { live: Live; fleet: Fleet; contract: Contract };

export const [getDoor, setDoor] = createContext<Door>();
export const [getApp, setApp] = createContext<App>();
