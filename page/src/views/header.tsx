import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { asked } from "../actions.ts";
import * as files from "../files.ts";
import { place } from "../place.ts";
import { claims, signOut } from "../session.ts";
import * as spoken from "../spoken.ts";
import { choose, language, LANGUAGES, text } from "../text/index.ts";
import * as uploads from "../uploads.ts";
import { Icon } from "./icons.tsx";
import { isSideOpen } from "./side.tsx";
import { openMenu } from "./menu.tsx";

/** How long the page waits for the next letter before it asks the api. */
const TYPING = 200;

export function Header({ tenant }: { tenant: string }) {
  const t = text.value;
  return (
    <header class="header">
      <button class="plain only-narrow" aria-label={t.navigation} aria-expanded={isSideOpen.value} aria-controls="side"
        onClick={() => (isSideOpen.value = !isSideOpen.value)}><Icon name="menu" /></button>
      <h1 class="brand"><span class="mark"><Icon name="files" /></span><span dir="auto">{tenant || t.files}</span></h1>
      <Search />
      <UploadButton />
      <button class="plain" aria-label={t.menu} aria-haspopup="menu" onClick={(event) => openMenu(event.currentTarget, t.menu, [
        ...(claims.value?.subject ? [{ label: t.signedInAs(claims.value.subject) }] : []),
        ...Object.entries(LANGUAGES).map(([name, each]) => ({
          label: each.itself, icon: language.value === name ? ("tick" as const) : undefined, isChosen: language.value === name,
          run: () => choose(name),
        })),
        { label: t.keys, run: () => (asked.value = { dialog: "keys" }) },
        { label: t.signOut, run: signOut },
      ])}><Icon name="person" /></button>
    </header>
  );
}

function Search() {
  const t = text.value;
  const label = spoken.isOffered.value === false ? t.search : t.searchAll;
  const typed = useSignal(files.view.peek().name);
  const timer = useRef(0);
  const { name } = files.view.value;
  useEffect(() => {
    if (name === "") typed.value = "";
  }, [name]);
  const look = (now: string, wait: number): void => {
    typed.value = now;
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => {
      if (files.view.value.name !== now.trim()) files.show({ name: now.trim() });
    }, wait);
  };
  return (
    <form class="search" role="search" onSubmit={(event) => {
      event.preventDefault();
      look(typed.value, 0);
    }}>
      <Icon name="search" />
      <input id="search" type="search" autocomplete="off" enterkeyhint="search" maxLength={255} placeholder={label}
        aria-label={label} value={typed.value} onInput={(event) => look(event.currentTarget.value, TYPING)}
        onKeyDown={(event) => event.key === "Escape" && look("", 0)} />
      {typed.value !== "" && <button type="button" class="plain" aria-label={t.clear} onClick={() => {
        look("", 0);
        document.getElementById("search")?.focus();
      }}><Icon name="close" /></button>}
    </form>
  );
}

function UploadButton() {
  const t = text.value;
  const input = useRef<HTMLInputElement>(null);
  return (
    <div class="split">
      <button id="choose" class="primary" aria-label={t.upload} onClick={() => input.current?.click()}><Icon name="upload" /><span class="wide">{t.upload}</span></button>
      <button class="primary" aria-label={t.record} title={t.record} onClick={() => (asked.value = { dialog: "record" })}><Icon name="camera" /></button>
      <input ref={input} type="file" multiple hidden aria-label={t.choose} data-testid="files" onChange={(event) => {
        const chosen = [...(event.currentTarget.files ?? [])];
        event.currentTarget.value = "";
        uploads.add(chosen, place.value.room);
      }} />
    </div>
  );
}
