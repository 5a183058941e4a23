import { redirect } from '@sveltejs/kit';
import { hostsLink } from '#lib/links.ts';

export function load({ url }: { url: URL }): never {
  redirect(307, hostsLink(url.search));
}
