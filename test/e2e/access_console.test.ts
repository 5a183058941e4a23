// Who may see and do what, in a real browser against the whole product, where nobody is anybody without signing in. The tests
// follow one another: the first admin comes by a link, lets a viewer in, makes a key, and shuts them out again.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text as textOf } from 'node:stream/consumers';
import { Child } from '@fleetreel/deploy/local/child';
import { NatsAccess } from '@fleetreel/proto/nats_access';
import { KeyPair, readCredentials } from '@fleetreel/proto/nats_jwt';
import { Kvm } from '@nats-io/kv';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { type Browser, type BrowserContext, chromium, type Locator, type Page } from 'playwright';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { PublishedHost } from '../frames.ts';
import { leaksInProcesses } from '../secrets.ts';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { NatsInstallation } from '../servers/nats_installation.ts';
import { Program, startProgram } from '../servers/program.ts';
import { eventually, machineIdOf, programs, Stack } from '../stack.ts';

const host = 'spruce';
const second = 1000;
/** Loads a page again until this is on it. */
const reloadedUntil = (what: string, shown: Locator) =>
  eventually(what, 60 * second, async () => {
    const there = await shown.waitFor({ timeout: 3 * second }).then(
      () => true,
      () => false,
    );
    if (!there) await page.reload();
    return there || undefined;
  });
const patience = { timeout: 20 * second };
const desktop = { width: 1440, height: 900 };
const screens = [
  [360, 'light'],
  [820, 'light'],
  [2560, 'light'],
  [360, 'dark'],
] as const;
const admin = { name: 'margarete', password: 'tkw8 zqvb 3mx in the rain', next: 'another 9 words for the same' };
const viewer = { name: 'vera', password: 'only to look at, 4711 times' };

let stack: Stack;
let connection: NatsConnection;
let browser: Browser;
/** The admin's, and the viewer's on another machine. */
let context: BrowserContext;
let page: Page;
let elsewhere: BrowserContext;
let view: Page;
/** What the browsers complained of, and every address that they asked. */
const complaints: string[] = [];
const asked: string[] = [];
/** One-time codes and keys, as they were made. */
let first = '';
let invitation = '';
let key = '';

beforeAll(async () => {
  const keys = await NatsInstallation.start();
  stack = await Stack.start({}, { keys, anonymous: 'none', agentsUrl: keys.server.url });
  for (const { password } of [admin, viewer]) stack.secrets.add(password);
  stack.secrets.add(admin.next);
  [first, browser] = await Promise.all([
    firstCode(),
    chromium.launch({ executablePath: chromiumPath, args: chromiumFlags }),
  ]);
  stack.secrets.add(first);
  connection = await connect(new NatsAccess(keys.collector).options);
  const spruce = new PublishedHost(connection, host);
  await spruce.describe();
  await spruce.publish({ load: { load_1m_count: [1] } });
  [context, page] = await visit();
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  [elsewhere, view] = await visit();
});

afterAll(async () => {
  await browser?.close();
  await connection?.close();
  await stack?.[Symbol.asyncDispose]();
});

// The browser alone does not say why.
beforeEach(({ onTestFailed }) => {
  onTestFailed(() => console.log((stack.collector as Program | undefined)?.lines.slice(-10).join('\n')));
});

test('without signing in there is the door and nothing else, and what was asked for is kept', async () => {
  await page.goto(`${stack.address}/hosts/${host}?range=1h&zone=utc`);
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  const { pathname, searchParams } = new URL(page.url());
  expect(pathname).toBe('/login');
  expect(searchParams.get('next')).toBe(`/hosts/${host}?range=1h&zone=utc`);
  expect(await page.getByRole('navigation').count()).toBe(0);
  expect(await page.locator('body').textContent()).not.toContain('online');
});

test('a one-time link: its code leaves the address at once, short passwords are not taken, by keyboard alone', async () => {
  await page.goto(`${stack.address}/welcome#${first}`);
  const name = page.getByRole('textbox', { name: 'User' });
  await name.waitFor();
  expect(page.url()).toBe(`${stack.address}/welcome`);
  await name.fill(admin.name);
  const act = page.getByRole('button', { name: 'Set password and sign in' });
  await page.getByLabel('Password', { exact: true }).focus();
  await page.keyboard.type('elevenchars');
  await page.getByText('1 more character, please').waitFor();
  await page.keyboard.press('Control+A');
  await page.keyboard.type('passwordpassword');
  await page.getByText('Weak: easy to guess').waitFor();
  await page.keyboard.press('Control+A');
  await page.keyboard.type(admin.password);
  await page.getByText('Strong', { exact: true }).waitFor();
  expect(await act.isDisabled()).toBe(true);
  // The eye, then the second field.
  await page.keyboard.press('Tab');
  await page.keyboard.press('Tab');
  await page.keyboard.type('something else');
  await page.getByText('This is not the same.').waitFor();
  expect(await act.isDisabled()).toBe(true);
  await page.keyboard.press('Control+A');
  await page.keyboard.type(admin.password);
  await page.keyboard.press('Enter');
  await page.waitForURL(`${stack.address}/hosts`);
  await page.locator(`[data-testid="host-card"][data-host="${host}"]`).waitFor();
});

test('a link works once, and says so', async () => {
  await view.goto(`${stack.address}/welcome#${first}`);
  await view
    .getByRole('alert')
    .getByText(/used already/)
    .waitFor();
  await view.goto(`${stack.address}/welcome`);
  await view.getByText(/opened by a one-time link/).waitFor();
});

test('signed out is signed out: back shows nothing, and there is no cookie that still works', async () => {
  const cookies = await context.cookies();
  await page
    .getByRole('button', { name: `Signed in: ${admin.name}` })
    .first()
    .click();
  const menu = page.locator('[popover]:popover-open');
  await menu.getByText('admin of default').waitFor();
  await menu.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  expect(page.url()).toBe(`${stack.address}/login`);
  await page.goBack();
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  const cookie = cookies.map(({ name, value }) => `${name}=${value}`).join('; ');
  expect(cookie).toContain('fleetreel_session=');
  expect((await fetch(`${stack.address}/api/v1/me`, { headers: { cookie } })).status).toBe(401);
});

test('a wrong password is a sentence; the right one leads to the page that was asked for', async () => {
  await page.goto(`${stack.address}/hosts/${host}?range=1h&zone=utc`);
  await signIn(page, admin.name, 'this is not the password');
  await page.getByRole('alert').getByText('There is no user of this name with this password.').waitFor();
  expect(await page.getByLabel('Password', { exact: true }).inputValue()).toBe('');
  await signIn(page, admin.name, admin.password);
  await page.waitForURL(`${stack.address}/hosts/${host}?range=1h&zone=utc`);
  await page.getByRole('heading', { name: host }).waitFor();
});

test('afterwards it goes to pages of the console only', async () => {
  await page.goto(`${stack.address}/login?next=${encodeURIComponent('/\\example.org')}`);
  await signIn(page, admin.name, admin.password);
  await page.waitForURL(`${stack.address}/hosts`);
});

test('who guesses has to wait, and is told until when', async () => {
  await view.goto(`${stack.address}/login`);
  // Of one moment, since the pause is short at first.
  const hasToWait = () =>
    view.locator('html').evaluate((html) => {
      const said = /Too many sign-ins were tried[\s\S]*That is at \d\d:\d\d:\d\d/.test(html.textContent ?? '');
      return said && html.querySelector('button[type="submit"]')?.disabled === true;
    });
  await eventually('that it is to be waited', 60 * second, async () => {
    await signIn(view, 'nobody', 'a password that is none');
    await view.getByRole('alert').waitFor();
    return (await hasToWait()) || undefined;
  });
  await expect
    .poll(() => view.getByRole('button', { name: 'Sign in' }).isEnabled(), { timeout: 60 * second })
    .toBe(true);
});

test('an invitation is a link that is shown once; the viewer who comes by it is shown nothing that is for admins', async () => {
  await page.goto(`${stack.address}/settings/users`);
  await page.getByRole('button', { name: 'Invite a user' }).click();
  const dialog = page.getByRole('dialog').and(page.locator('[open]'));
  await dialog.getByLabel('User', { exact: true }).waitFor();
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  await page.getByRole('button', { name: 'Invite a user' }).click();
  await page.keyboard.type(viewer.name);
  await page.keyboard.press('Enter');
  const link = await dialog.getByLabel('One-time link', { exact: true }).inputValue();
  expect(link).toContain(`${stack.address}/welcome#`);
  invitation = link.split('#')[1] ?? '';
  stack.secrets.add(invitation);
  await dialog.getByRole('button', { name: 'Done' }).click();
  await row('user', viewer.name).getByText('invited').waitFor();
  expect(await page.locator('body').textContent()).not.toContain(invitation);

  await view.goto(link);
  await view.getByText('You are invited as viewer of default').waitFor();
  await view.getByLabel('Password', { exact: true }).fill(viewer.password);
  await view.getByLabel('Password, once more', { exact: true }).fill(viewer.password);
  await view.keyboard.press('Enter');
  await view.waitForURL(`${stack.address}/hosts`);
  await view.locator(`[data-testid="host-card"][data-host="${host}"]`).click();
  await view.getByRole('heading', { name: host }).waitFor();
  expect(await view.getByRole('button', { name: 'Forget…' }).count()).toBe(0);
  await view.goto(`${stack.address}/settings`);
  await view.getByText('Viewer of default.').waitFor();
  expect(await view.getByRole('navigation', { name: 'Settings' }).getByRole('link').allTextContents()).toEqual([
    'Account',
  ]);
  for (const [path, what] of [
    ['users', 'the users'],
    ['keys', 'the keys'],
    ['agents', 'the settings of agents'],
    ['audit', 'the audit'],
  ]) {
    await view.goto(`${stack.address}/settings/${path}`);
    await view.getByText(`Only an admin may see ${what}. Ask one of default.`).waitFor();
    expect(await view.getByRole('main').getByRole('button').count()).toBe(0);
  }
  // What is not shown is refused, too.
  const status = await view.evaluate(
    async (name) => (await fetch(`/api/v1/hosts/${name}`, { method: 'DELETE' })).status,
    host,
  );
  expect(status).toBe(403);
  await page.reload();
  await row('user', viewer.name).getByRole('combobox').waitFor();
  expect(await row('user', viewer.name).getByText('invited').count()).toBe(0);
});

test('another role is another console', async () => {
  await row('user', viewer.name).getByRole('combobox').selectOption('admin');
  await eventually('that it is so', 20 * second, async () => {
    await view.goto(`${stack.address}/hosts/${host}`);
    await view.getByRole('heading', { name: host }).waitFor();
    return (await view.getByRole('button', { name: 'Forget…' }).count()) === 1 || undefined;
  });
  await row('user', viewer.name).getByRole('combobox').selectOption('viewer');
  await eventually('that it is so again', 20 * second, async () => {
    await view.goto(`${stack.address}/hosts/${host}`);
    await view.getByRole('heading', { name: host }).waitFor();
    return (await view.getByRole('button', { name: 'Forget…' }).count()) === 0 || undefined;
  });
});

test('a key is shown once, does what it may, and nothing any more once it is revoked', async () => {
  await page.goto(`${stack.address}/settings/keys`);
  await page.getByText('There are no keys yet.').waitFor();
  await page.getByRole('button', { name: 'Make a key' }).click();
  const dialog = page.getByRole('dialog').and(page.locator('[open]'));
  await page.keyboard.type('grafana <b>');
  await page.keyboard.press('Enter');
  key = await dialog.getByLabel('Key', { exact: true }).inputValue();
  stack.secrets.add(key);
  expect(key).toMatch(/^frk_/);
  await dialog.getByRole('button', { name: 'Done' }).click();
  const made = page.getByRole('row').filter({ hasText: 'grafana <b>' });
  await made.getByText('read', { exact: true }).waitFor();
  expect(await page.locator('html').innerHTML()).not.toContain(key);

  const ask = async (path: string) =>
    (await fetch(`${stack.address}/api/v1/${path}`, { headers: { 'x-api-key': key } })).status;
  expect(await ask('hosts')).toBe(200);
  expect(await ask('users')).toBe(403);
  await made.getByRole('button', { name: /Revoke/ }).click();
  await dialog.getByText('Programs that use it are refused from now on.').waitFor();
  await dialog.getByRole('button', { name: 'Revoke this key' }).click();
  await page.getByText('There are no keys yet.').waitFor();
  await expect.poll(() => ask('hosts'), patience).toBe(401);
});

test('whose sessions are ended is at the door at once, and comes back to the page that was open', async () => {
  await view.goto(`${stack.address}/hosts/${host}?range=6h`);
  await view.getByRole('heading', { name: host }).waitFor();
  await view.getByRole('status').getByText('Live', { exact: true }).waitFor();
  await page.goto(`${stack.address}/settings/users`);
  await row('user', viewer.name)
    .getByRole('button', { name: /End sessions/ })
    .click();
  await view.getByRole('heading', { name: 'Sign in' }).waitFor();
  expect(new URL(view.url()).searchParams.get('next')).toBe(`/hosts/${host}?range=6h`);
  await signIn(view, viewer.name, viewer.password);
  await view.waitForURL(`${stack.address}/hosts/${host}?range=6h`);
});

test('a changed password ends the other sessions, and one session ends another', async () => {
  const [other, third] = await visit();
  await third.goto(`${stack.address}/login`);
  await signIn(third, admin.name, admin.password);
  await third.waitForURL(`${stack.address}/hosts`);
  await page.goto(`${stack.address}/settings/account`);
  const sessions = page.getByRole('table', { name: 'Sessions' });
  await sessions.getByText('this one').waitFor();
  // Signing in over and over left several: the newest but one's own is that of the other browser.
  const count = await sessions.getByRole('row').count();
  const others = sessions.getByRole('row').filter({ has: page.getByRole('button', { name: /End/ }) });
  await others.first().getByRole('button').click();
  await expect.poll(() => sessions.getByRole('row').count(), patience).toBe(count - 1);
  await third.getByRole('heading', { name: 'Sign in' }).waitFor();

  await signIn(third, admin.name, admin.password);
  await third.waitForURL(`${stack.address}/hosts`);
  await page.getByLabel('Current password', { exact: true }).fill('not the present one');
  await page.getByLabel('New password', { exact: true }).fill(admin.next);
  await page.getByLabel('New password, once more', { exact: true }).fill(admin.next);
  await page.keyboard.press('Enter');
  await page.getByRole('alert').getByText('The present password is another.').waitFor();
  await page.getByLabel('Current password', { exact: true }).fill(admin.password);
  await page.keyboard.press('Enter');
  await page.getByText('The password is changed, and all other sessions are ended.').waitFor();
  await third.getByRole('heading', { name: 'Sign in' }).waitFor();
  await expect.poll(() => sessions.getByRole('row').count(), patience).toBe(2);
  await other.close();
});

test('everything of the settings is reached by keyboard, and where the focus is can be seen', async () => {
  await page.goto(`${stack.address}/settings/users`);
  await row('user', viewer.name).waitFor();
  const names: string[] = [];
  for (let step = 0; step < 60; step++) {
    await page.keyboard.press('Tab');
    const focused = page.locator(':focus');
    if ((await focused.count()) === 0) break;
    const focus = await focused.evaluate((element) => {
      const { outlineStyle, outlineWidth } = element.ownerDocument.defaultView.getComputedStyle(element);
      return {
        name: String(element.getAttribute('aria-label') ?? element.textContent)
          .replace(/\s+/g, ' ')
          .trim(),
        seen: outlineStyle !== 'none' && Number.parseFloat(outlineWidth) > 0,
      };
    });
    expect(focus.seen, `a visible focus on "${focus.name}"`).toBe(true);
    names.push(focus.name);
    if (focus.name.startsWith('Delete…') && focus.name.includes(viewer.name)) break;
  }
  const order = [
    `Signed in: ${admin.name}`,
    'Settings',
    'Account',
    'Users',
    'Keys',
    'Invite a user',
    `Role of ${viewer.name}`,
  ];
  expect(names.filter((name) => order.includes(name))).toEqual(order);
  await page.keyboard.press('Enter');
  const dialog = page.getByRole('dialog').and(page.locator('[open]'));
  await dialog.getByRole('heading', { name: `Delete ${viewer.name}?` }).waitFor();
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  await row('user', viewer.name).waitFor();
});

test('measures and events of applications: as text, drawn, and asked for by what a click says', async () => {
  const hostile = '<img src=x onerror=alert(1)>';
  const put = (kind: string, entries: object[]) =>
    page.evaluate(
      async ([path, body]) =>
        (await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body })).status,
      [`/api/v1/${kind}`, JSON.stringify(entries)] as const,
    );
  const depth = (value: number, queue: string) => ({ name: 'queue.depth', value, metadata: { queue } });
  expect(await put('measure', [depth(7, hostile), depth(11, 'mail')])).toBeLessThan(300);
  expect(await put('event', [{ name: 'deploy.done', text: hostile, severity: 'error' }])).toBeLessThan(300);
  const rows = page.locator('table tbody tr');
  await page.goto(`${stack.address}/measures`);
  await reloadedUntil('both measures', rows.nth(1));
  expect(await rows.count()).toBe(2);
  await rows.getByText(hostile).waitFor();
  await page.getByTestId('chart').waitFor();
  await rows.getByRole('button', { name: hostile }).click();
  await expect.poll(() => rows.count(), patience).toBe(1);
  await page.reload();
  await rows.getByText('7', { exact: true }).waitFor();
  expect(await rows.count()).toBe(1);
  await page.getByRole('button', { name: /Take away/ }).click();
  await page.getByLabel('Name', { exact: true }).fill('nothing.*');
  await page.keyboard.press('Enter');
  await page.getByText('No measure of this range is as asked for.').waitFor();
  await page.goto(`${stack.address}/events/applications?q.severity=error`);
  await reloadedUntil('the event', rows.first());
  expect(await rows.count()).toBe(1);
  await rows.getByText(hostile).waitFor();
});

test('a setting is wanted of agents after it was said which hosts it changes', async () => {
  await page.goto(`${stack.address}/settings/agents`);
  await page.getByText('Nothing is wanted: every agent follows its own file.').waitFor();
  await page.getByRole('button', { name: 'Want a setting' }).click();
  const dialog = page.getByRole('dialog').and(page.locator('[open]'));
  await dialog.getByLabel('Setting 1', { exact: true }).fill('interval');
  await dialog.getByLabel('Value 1', { exact: true }).fill('now and then');
  await page.keyboard.press('Enter');
  await dialog
    .getByRole('alert')
    .getByText(/interval can't be/)
    .waitFor();
  await dialog.getByLabel('Value 1', { exact: true }).fill('2s');
  await page.keyboard.press('Enter');
  await dialog.getByText('One host changes').waitFor();
  await dialog.getByRole('button', { name: 'Change 1 host' }).click();
  await page.locator('tr[data-target="all"]').getByText('2s').waitFor();
  await page.locator(`tr[data-agent="${host}"]`).getByText('interval').waitFor();
});

test('who wants one more setting of a target sees and keeps those that are wanted of it', async () => {
  await page.goto(`${stack.address}/settings/agents`);
  const all = page.locator('tr[data-target="all"]');
  await all.getByText('2s').waitFor();
  const button = page.getByRole('button', { name: 'Want a setting' });
  const dialog = page.getByRole('dialog').and(page.locator('[open]'));
  const act = dialog.getByRole('button', { name: 'Which hosts change?' });
  const key = (number: number) => dialog.getByLabel(`Setting ${number}`, { exact: true });
  const value = (number: number) => dialog.getByLabel(`Value ${number}`, { exact: true });
  await button.click();
  expect([await key(1).inputValue(), await value(1).inputValue()]).toEqual(['interval', '2s']);
  // Of another target nothing is wanted yet, and nothing is nothing to do.
  await dialog.getByLabel('Of', { exact: true }).selectOption('One host');
  await dialog.getByLabel('Host', { exact: true }).fill(host);
  expect(await key(1).inputValue()).toBe('');
  expect(await act.isDisabled()).toBe(true);
  await dialog.getByLabel('Of', { exact: true }).selectOption('All agents');
  expect(await value(1).inputValue()).toBe('2s');
  await dialog.getByRole('button', { name: 'Another setting' }).click();
  await key(2).fill('container.labels');
  await value(2).fill('com.example.team');
  // Somebody else is faster.
  const elsewhere = await page.request.put(`${stack.address}/api/v1/agents/settings/all`, {
    data: { settings: { interval: '5s' } },
    headers: { origin: stack.address },
  });
  expect(elsewhere.status()).toBe(200);
  await act.click();
  await dialog.getByRole('alert').getByText('Somebody else has changed this').waitFor();
  expect([await value(1).inputValue(), await value(2).inputValue()]).toEqual(['5s', 'com.example.team']);
  await act.click();
  await dialog.getByRole('button', { name: 'Change 1 host' }).click();
  await all.getByText('com.example.team').waitFor();
  await all.getByText('5s').waitFor();
  // Who takes one away reads which before it is done.
  await all.getByRole('button', { name: /Change/ }).click();
  await dialog.getByLabel('Take away setting 1').click();
  await act.click();
  await dialog.getByText(/^Not wanted any more: (interval|container\.labels)$/).waitFor();
  await page.keyboard.press('Escape');
});

test('a host is let in by the line that is shown, run as it is, and shut out again', {
  timeout: 120 * second,
}, async () => {
  await page.goto(`${stack.address}/settings/agents`);
  await page.getByText('No credentials have been issued yet.').waitFor();
  await page.getByRole('button', { name: 'Enrol a host' }).click();
  const dialog = page.getByRole('dialog').and(page.locator('[open]'));
  const act = dialog.getByRole('button', { name: 'Make a code' });
  await page.keyboard.type('box 1');
  await dialog.getByText('Letters, digits, “-”, “_” and “.” only.').waitFor();
  expect(await act.isDisabled()).toBe(true);
  await page.keyboard.press('Control+A');
  await page.keyboard.type('box-1');
  // Nothing is guessed: the collector was told where agents reach NATS.
  expect(await dialog.getByLabel('The host reaches NATS at').inputValue()).toBe(stack.nats.url);
  expect(await dialog.getByLabel('The host reaches this collector at').inputValue()).toBe(stack.address);
  await dialog.getByLabel('The host reaches this collector at').fill('http://192.0.2.1:7600');
  await dialog.getByText(/whoever listens could use the code first/).waitFor();
  expect(await act.isDisabled()).toBe(true);
  await dialog.getByLabel('The host reaches this collector at').fill(stack.address);
  await page.keyboard.press('Enter');
  const line = await dialog.getByLabel('Paste this on the host, as root').inputValue();
  const code = line.split('\n')[1] ?? '';
  expect(code).toMatch(/^default:[\w-]{27}$/);
  stack.secrets.add(code);
  await dialog.getByText('Waiting for the agent of box-1').waitFor();
  await dialog.getByRole('button', { name: 'Copy' }).click();
  expect(await page.evaluate('navigator.clipboard.readText()')).toBe(line);

  await using box = await Box.paste(line);
  await dialog
    .locator('[data-here="true"]')
    .getByRole('link', { name: 'box-1' })
    .waitFor({ timeout: 60 * second });
  expect(await leaksInProcesses(new Set([code]))).toEqual([]);
  await dialog.getByRole('button', { name: 'Done' }).click();
  expect(await page.locator('html').innerHTML()).not.toContain(code);
  const credentials = page.locator('tr[data-credentials="box-1"]');
  await page.locator('tr[data-agent="box-1"]').waitFor();
  await credentials.getByRole('button', { name: /Take back/ }).click();
  await dialog.getByText('Its agent is cut off at once').waitFor();
  await dialog.getByRole('button', { name: 'Take them back' }).click();
  await credentials.locator('.tag').getByText('taken back').waitFor();
  await box.line(/they were revoked.*NATS refuses this agent/, 60 * second);

  // The other way: a file that one moves.
  await page.getByRole('button', { name: 'Enrol a host' }).click();
  await page.keyboard.type('box-2');
  await dialog.getByRole('button', { name: 'Credentials file' }).click();
  await dialog.getByRole('button', { name: 'Make the file' }).click();
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    dialog.getByRole('link', { name: 'box-2.creds' }).click(),
  ]);
  expect(download.suggestedFilename()).toBe('box-2.creds');
  const { key } = readCredentials(await textOf(await download.createReadStream()));
  stack.secrets.add(key.seed);
  expect(await dialog.getByLabel('Then, beside it, as root').inputValue()).toBe(
    `fleetreel-agent run --nats-url ${stack.nats.url} --nats-credentials box-2.creds`,
  );
  await page.keyboard.press('Escape');
});

test('credentials that have expired are shown as such, and there is nothing to take back', async () => {
  const bucket = await new Kvm(connection).open('enrolment');
  const issued = Date.now() - 7_200_000;
  const over = { host: 'box-3', by: admin.name, byCode: false, issued, expires: issued + 3_600_000, revoked: null };
  await bucket.put(`credentials.default.box-3.${KeyPair.create('user').publicKey}`, JSON.stringify(over));
  await page.goto(`${stack.address}/settings/agents`);
  const credentials = page.locator('tr[data-credentials="box-3"]');
  await credentials.locator('.tag').getByText('expired').waitFor();
  expect(await credentials.getByRole('button').count()).toBe(0);
});

test('phone, tablet and wall: nothing is wider than the screen, in either theme', {
  timeout: 150 * second,
}, async () => {
  const pages = [
    ['/login', 'Sign in'],
    ['/welcome', 'Welcome'],
    ['/settings/account', 'Settings'],
    ['/settings/users', 'Settings'],
    ['/settings/keys', 'Settings'],
    ['/settings/agents', 'Settings'],
    ['/settings/audit', 'Settings'],
    ['/measures', 'Measures'],
    ['/events/applications', 'Events'],
  ] as const;
  for (const [path, title] of pages) {
    // What it asks for has come: before, there is nothing yet that could be too wide.
    await page.goto(stack.address + path, { waitUntil: 'networkidle' });
    await page.getByRole('heading', { level: 1, name: title }).waitFor();
    await expect.poll(() => page.getByRole('status', { name: 'Loading' }).count(), patience).toBe(0);
    for (const [width, colorScheme] of screens) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      // Charts and tables follow a moment later.
      const beyond = () =>
        page.locator('html').evaluate(({ scrollWidth, clientWidth }) => Math.max(0, scrollWidth - clientWidth));
      await expect.poll(beyond, { ...patience, message: `${path} at ${width}, ${colorScheme}` }).toBe(0);
    }
  }
  await page.setViewportSize(desktop);
});

test('who is deleted is out', async () => {
  await page.goto(`${stack.address}/settings/users`);
  await row('user', viewer.name)
    .getByRole('button', { name: /Delete/ })
    .click();
  await page.getByRole('button', { name: 'Delete this user' }).click();
  await row('user', viewer.name).waitFor({ state: 'detached' });
  await view.getByRole('heading', { name: 'Sign in' }).waitFor();
  await signIn(view, viewer.name, viewer.password);
  await view.getByRole('alert').getByText('There is no user of this name').waitFor();
});

test('no secret was in an address, and none is kept by the browser', async () => {
  expect(asked.length).toBeGreaterThan(50);
  for (const secret of stack.secrets) {
    expect(asked.filter((url) => decodeURIComponent(url).includes(secret))).toEqual([]);
    for (const one of [page, view])
      expect(await one.evaluate('JSON.stringify([localStorage, sessionStorage, document.cookie])')).not.toContain(
        secret,
      );
  }
  const [cookie] = await context.cookies();
  expect(cookie).toMatchObject({ name: 'fleetreel_session', httpOnly: true, sameSite: 'Strict', path: '/' });
});

test('the browser had nothing to complain of but what was refused', () => {
  expect(complaints.filter((text) => !/status of 4(00|01|03|09|10|29)|WebSocket connection/.test(text))).toEqual([]);
});

test('where anybody may look, nobody is asked to sign in, and the menu says so', async () => {
  stack.anonymous = 'viewer';
  stack.agentsUrl = undefined;
  await stack.collector.stop();
  await stack.startCollector();
  await elsewhere.clearCookies();
  await view.goto(`${stack.address}/hosts/${host}`);
  await view.getByRole('heading', { name: host }).waitFor();
  expect(await view.getByRole('button', { name: 'Forget…' }).count()).toBe(0);
  await view.getByRole('button', { name: 'Signed in: nobody' }).first().click();
  const menu = view.locator('[popover]:popover-open');
  await menu.getByText('Whoever reaches this address is viewer of default: anonymous access is on.').waitFor();
  await menu.getByRole('link', { name: 'Sign in' }).click();
  await signIn(view, admin.name, admin.next);
  await view.waitForURL(`${stack.address}/hosts/${host}`);
  await view.getByRole('button', { name: 'Forget…' }).waitFor();

  // This collector was not told where agents reach NATS: whoever lets one in is asked.
  await view.goto(`${stack.address}/settings/agents`);
  await view.getByRole('button', { name: 'Enrol a host' }).click();
  await view.keyboard.type('box-3');
  await view.getByText('The collector was not told').waitFor();
  expect(await view.getByRole('button', { name: 'Make a code' }).isDisabled()).toBe(true);
  await view.getByLabel('The host reaches NATS at').fill('tls://nats.example.org:4222');
  expect(await view.getByRole('button', { name: 'Make a code' }).isEnabled()).toBe(true);
});

/** The code of a link by which the first admin is made, as the command for that prints it. */
async function firstCode(): Promise<string> {
  await using link = await startProgram(programs.collector, ['link', ...stack.logFlags()]);
  await link.exited;
  return /#(\S+)/.exec(link.lines.join('\n'))?.[1] ?? '';
}

/** A machine on which a line is pasted into a shell. */
class Box implements AsyncDisposable {
  readonly #folder: string;
  readonly #shell: Program;

  private constructor(folder: string, shell: Program) {
    this.#folder = folder;
    this.#shell = shell;
  }

  static async paste(line: string): Promise<Box> {
    const folder = await mkdtemp(join(tmpdir(), 'fleetreel-box-'));
    const agent = join(import.meta.dirname, '../..', programs.agent);
    const start = `#!/bin/sh\nexec '${process.execPath}' '${agent}' "$@"\n`;
    await writeFile(join(folder, 'fleetreel-agent'), start, { mode: 0o755 });
    await writeFile(join(folder, 'pasted'), `${line}\n`, { mode: 0o600 });
    const env = {
      PATH: `${folder}:${process.env.PATH ?? ''}`,
      FLEETREEL_DATA: join(folder, 'data'),
      FLEETREEL_MACHINE_ID: machineIdOf('box-1'),
      FLEETREEL_INTERVAL: '1s',
    };
    const lines: string[] = [];
    const shell = { name: 'the shell', command: 'sh', args: [join(folder, 'pasted')], env };
    return new Box(folder, new Program(await Child.start(shell, (said) => lines.push(said)), lines));
  }

  line(pattern: RegExp, milliseconds: number): Promise<string> {
    return this.#shell.line(pattern, milliseconds);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#shell.stop();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** A browser of its own. */
async function visit(): Promise<[BrowserContext, Page]> {
  const made = await browser.newContext({ viewport: desktop, colorScheme: 'light', reducedMotion: 'reduce' });
  made.setDefaultTimeout(20 * second);
  const opened = await made.newPage();
  opened.on('request', (request) => asked.push(request.url()));
  opened.on('websocket', (socket) => asked.push(socket.url()));
  opened.on('pageerror', (error) => complaints.push(String(error)));
  opened.on('console', (message) => {
    if (message.type() === 'error' || /Content.Security.Policy/i.test(message.text()))
      complaints.push(`${message.text()} ${message.location().url}`);
  });
  return [made, opened];
}

/** Fills in the form that is shown, and sends it. */
async function signIn(on: Page, user: string, password: string): Promise<void> {
  // The menu of the page that is left is called so, too.
  await on.getByRole('textbox', { name: 'User' }).fill(user);
  await on.getByLabel('Password', { exact: true }).fill(password);
  await on.keyboard.press('Enter');
}

const row = (of: 'user' | 'key', name: string) => page.locator(`tr[data-${of}="${name}"]`);
