import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { text } from "../text/index.ts";
import { Icon } from "./icons.tsx";

/** A modal dialog; without `onClose` it stays until it is no longer rendered. */
export function Modal({ title, kind = "", onClose, children }: {
  title: string; kind?: string; onClose?: () => void; children: ComponentChildren;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement;
    const own = dialog.current!;
    own.showModal();
    return () => {
      const now = document.activeElement;
      if (now !== document.body && !own.contains(now)) return; // what the dialog did has moved the focus on
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog ref={dialog} class={`modal ${kind}`} aria-labelledby="modal-title"
      onCancel={(event) => {
        event.preventDefault();
        onClose?.();
      }}
      onKeyDown={(event) => event.stopPropagation()}
      onPointerDown={(event) => event.target === dialog.current && onClose?.()}>
      <div class="modal-body">
        <header><h2 id="modal-title">{title}</h2>
          {onClose && <button class="plain" aria-label={text.value.close} onClick={onClose}><Icon name="close" /></button>}</header>
        {children}
      </div>
    </dialog>
  );
}
