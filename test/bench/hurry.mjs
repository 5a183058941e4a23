// Loaded into the agent by `day.ts`: its clocks run faster, so that a day of ticks takes minutes. Everything else is as it is. Not
// TypeScript: what strips types would be part of the memory that is measured.
import { syncBuiltinESMExports } from 'node:module';
import timers from 'node:timers/promises';

const factor = Number(process.env.FLEETREEL_BENCH_HURRY);
const [dateNow, performanceNow, sleep] = [Date.now, performance.now.bind(performance), timers.setTimeout];
const [date, monotonic] = [dateNow(), performanceNow()];
Date.now = () => date + (dateNow() - date) * factor;
performance.now = () => monotonic + (performanceNow() - monotonic) * factor;
timers.setTimeout = (milliseconds, ...rest) => sleep(milliseconds / factor, ...rest);
syncBuiltinESMExports();
