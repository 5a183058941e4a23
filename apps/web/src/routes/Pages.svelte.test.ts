import { createRawSnippet } from 'svelte';
import { expect, test } from 'vitest';
import { userEvent } from 'vitest/browser';
import { render } from 'vitest-browser-svelte';
import '../app.css';
import { Paged } from '#lib/paged.svelte.ts';
import Pages from './Pages.svelte';

test('whoever reads older ones is told that new ones are not shown, and may have them', async () => {
  const list = new Paged<string>(async (before) =>
    before === '' ? { rows: ['new'], before: 'older' } : { rows: ['old'], before: null },
  );
  const stop = list.start(true);
  const children = createRawSnippet(() => ({ render: () => '<p>rows</p>' })) as never;
  const screen = await render(Pages, { of: list as Paged<unknown>, nothing: 'Nothing.', children });
  await userEvent.click(screen.getByRole('button', { name: 'Show older ones' }));
  const said = screen.getByText('New ones are not shown while older ones are.');
  await expect.element(said).toBeVisible();
  expect(said.element().closest('[aria-live=polite]')).not.toBeNull();
  expect(list.rows).toEqual(['new', 'old']);
  await userEvent.click(screen.getByRole('button', { name: 'Show the newest' }));
  await expect.element(said).not.toBeInTheDocument();
  await expect.poll(() => list.rows).toEqual(['new']);
  stop();
});
