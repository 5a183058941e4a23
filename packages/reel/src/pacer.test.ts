import { describe, expect, test } from 'vitest';
import { type PaceClock, Pacer } from '#pacer.ts';

/** A clock that only its test moves; a sleep ends when the time is reached. */
class TestClock implements PaceClock {
  now = 0;
  #sleeping: { until: number; wake: () => void }[] = [];

  monotonic_ms(): number {
    return this.now;
  }

  sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#sleeping.push({ until: this.now + milliseconds, wake: resolve });
      signal?.addEventListener('abort', () => reject(signal.reason as Error));
    });
  }

  /** Moves on by steps, as timers would fire. */
  async pass(milliseconds: number, grain = 1): Promise<void> {
    for (const end = this.now + milliseconds; this.now < end; ) {
      this.now = Math.min(this.now + grain, end);
      for (const { until, wake } of this.#sleeping) if (until <= this.now) wake();
      this.#sleeping = this.#sleeping.filter(({ until }) => until > this.now);
      // What waits goes on, as far as it can without time.
      for (let turn = 0; turn < 10; turn++) await Promise.resolve();
    }
  }
}

const second_us = 1_000_000;
const signal = new AbortController().signal;

/** Passes frames every `spacing_us` and notes when. */
async function play(pacer: Pacer, clock: TestClock, spacing_us = second_us, count = 1000): Promise<number[]> {
  const at: number[] = [];
  void (async () => {
    for (let index = 0; index < count; index++) {
      await pacer.wait(index * spacing_us, signal);
      at.push(clock.now);
    }
  })();
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  return at;
}

describe('the spacing', () => {
  test.each([0.1, 1, 10, 1000])('is the original one times %s, without drift', async (speed) => {
    const clock = new TestClock();
    const at = await play(new Pacer(clock, speed), clock, second_us * speed, 200);
    // Timers that are late by up to 7 ms: each by itself, never added up.
    await clock.pass(150_500, 7);
    expect(at.length).toBeGreaterThan(150);
    for (const [index, now] of at.entries()) {
      expect(now - index * 1000).toBeGreaterThanOrEqual(0);
      expect(now - index * 1000).toBeLessThanOrEqual(7);
    }
  });

  test('is none as fast as possible', async () => {
    const clock = new TestClock();
    const at = await play(new Pacer(clock, 'max'), clock, 3600 * second_us, 50);
    for (let turn = 0; turn < 200; turn++) await Promise.resolve();
    expect(at).toEqual(Array.from({ length: 50 }, () => 0));
  });

  test('goes on from where it stands when the speed changes, even within a long wait', async () => {
    const clock = new TestClock();
    const pacer = new Pacer(clock, 1);
    const at = await play(pacer, clock, 10 * second_us);
    await clock.pass(5000);
    expect(at).toEqual([0]);
    pacer.setSpeed(10);
    await clock.pass(1500);
    expect(at).toEqual([0, 5500, 6500]);
    expect(pacer.position_us).toBe(20 * second_us);
    pacer.setSpeed('max');
    for (let turn = 0; turn < 9000; turn++) await Promise.resolve();
    expect(at.length).toBe(1000);
  });

  test('of a reader that was late is not made up for by a burst of more than a second', async () => {
    const clock = new TestClock();
    const pacer = new Pacer(clock, 1);
    await pacer.wait(0, signal);
    clock.now = 60_000;
    expect(pacer.take(1 * second_us)).toBe(true);
    expect(pacer.take(2 * second_us)).toBe(false);
    clock.now = 61_000;
    expect(pacer.take(2 * second_us)).toBe(true);
  });
});

describe('control', () => {
  test('a pause holds, resuming goes on with what was left', async () => {
    const clock = new TestClock();
    const pacer = new Pacer(clock, 1);
    const at = await play(pacer, clock);
    await clock.pass(2400);
    pacer.pause();
    expect(pacer.isPaused).toBe(true);
    await clock.pass(60_000);
    expect(at).toEqual([0, 1000, 2000]);
    expect(pacer.position_us).toBe(2.4 * second_us);
    pacer.resume();
    await clock.pass(700);
    expect(at).toEqual([0, 1000, 2000, 63_000]);
  });

  test('a step lets frames pass one by one', async () => {
    const clock = new TestClock();
    const pacer = new Pacer(clock, 1, true);
    const at = await play(pacer, clock);
    await clock.pass(5000);
    expect(at).toEqual([]);
    pacer.step();
    await clock.pass(10);
    expect(at.length).toBe(1);
    pacer.step(3);
    await clock.pass(10);
    expect(at.length).toBe(4);
    expect(pacer.position_us).toBe(3 * second_us);
    pacer.resume();
    pacer.step();
    await clock.pass(1005);
    expect(at.length).toBe(5);
  });

  test('after a seek the next frame is due at once', async () => {
    const clock = new TestClock();
    const pacer = new Pacer(clock, 1);
    await pacer.wait(0, signal);
    pacer.restart();
    expect(pacer.take(500 * second_us)).toBe(true);
    expect(pacer.take(501 * second_us)).toBe(false);
    pacer.restart();
    expect(pacer.take(3 * second_us)).toBe(true);
  });

  test('a wait ends with the signal', async () => {
    const pacer = new Pacer(new TestClock(), 1, true);
    const stop = new AbortController();
    const waiting = pacer.wait(0, stop.signal);
    stop.abort(new Error('enough'));
    // A step that is told at the same moment is not for the frame that was given up.
    pacer.step();
    await expect(waiting).rejects.toThrow('enough');
    expect(pacer.take(5)).toBe(true);
  });

  test.each([0, 0.09, 1001, Number.NaN, -1])('a speed of %s is refused', (speed) => {
    expect(() => new Pacer(new TestClock(), speed)).toThrow(RangeError);
    const pacer = new Pacer(new TestClock(), 1);
    expect(() => pacer.setSpeed(speed)).toThrow('give 0.1 to 1000, or max');
    expect(pacer.speed).toBe(1);
  });
});
