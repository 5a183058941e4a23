/** The browser that the tests drive: Debian's, or the one the environment names. */
export const chromiumPath = process.env.CHROMIUM ?? '/usr/bin/chromium';

/** Without a sandbox (the tests run as root) and without the browser's own traffic. */
export const chromiumFlags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
