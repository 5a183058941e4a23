// The code of a one-time link, `/welcome#CODE`. It is in the fragment, which is never sent and never logged; here it is
// taken out of the address at once, so that it is not in the history, a bookmark or a picture of the screen either.
let taken = take();

function take(): string {
  const code = location.hash.slice(1);
  if (location.pathname !== '/welcome' || code === '') return '';
  history.replaceState(history.state, '', location.pathname);
  return code;
}

/** The code that this visit came with, once; empty when there was none. */
export function takeCode(): string {
  const code = taken || take();
  taken = '';
  return code;
}
