import { text } from "../text/index.ts";
import { act, dismiss, hold, toasts } from "../toasts.ts";
import { Icon } from "./icons.tsx";

export function Toasts() {
  const t = text.value;
  return (
    <div class="toasts" role="log" aria-live="polite" aria-relevant="additions" onPointerEnter={() => hold(true)} onPointerLeave={() => hold(false)}
      onFocusCapture={() => hold(true)} onBlurCapture={() => hold(false)}>
      {toasts.value.map((toast) => (
        <div key={toast.id} class={toast.isProblem ? "toast problem" : "toast"} role={toast.isProblem ? "alert" : undefined}>
          {toast.isProblem && <Icon name="warning" />}
          <p dir="auto">{toast.text}</p>
          {toast.action && <button class="quiet" onClick={() => act(toast.id)}>{toast.action.label}</button>}
          <button class="plain" aria-label={t.dismiss} onClick={() => dismiss(toast.id)}><Icon name="close" /></button>
        </div>
      ))}
    </div>
  );
}
