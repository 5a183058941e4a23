// What the root layout makes once and every component may ask for.
import { createContext } from 'svelte';
import type { Api } from '#lib/api.ts';
import type { Contract, Fleet } from '#lib/fleet.svelte.ts';
import type { Live } from '#lib/live.svelte.ts';
import type { View } from '#lib/view.svelte.ts';

export type App = {
  api: Api;
  live: Live;
  view: View;
  fleet: Fleet;
  contract: Contract /** Requests under way. */;
  pending: () => number;
};

export const [getApp, setApp] = createContext<App>();
