import { useSignal } from "@preact/signals";
import { tokenIn } from "../claims.ts";
import { failure, goToIssuer, hasEnded, settings, signIn } from "../session.ts";
import { text } from "../text/index.ts";
import { Modal } from "./modal.tsx";

/** The dialog for signing in, over the page. Only a sign-in closes it. */
export function SignIn() {
  const t = text.value;
  const typed = useSignal("");
  const isWrong = useSignal(false);
  const oidc = settings.value?.oidc ?? null;
  const title = hasEnded.value ? t.endedTitle : t.signInTitle;
  return (
    <Modal title={title} kind="sign-in">
      {hasEnded.value && <p>{t.endedText}</p>}
      {oidc !== null ? (
        <>
          {!hasEnded.value && <p>{t.signInOidc(settings.value?.tenant ?? "")}</p>}
          <div class="buttons"><button class="primary" autofocus onClick={() => void goToIssuer()}>{t.signInButton}</button></div>
        </>
      ) : (
        <form onSubmit={(event) => {
          event.preventDefault();
          const token = tokenIn(typed.value);
          isWrong.value = token === null;
          if (token !== null) signIn(token);
        }}>
          <p id="sign-in-text">{t.signInText}</p>
          <label>{t.token}
            <input type="password" autocomplete="off" spellcheck={false} required autofocus value={typed.value} aria-describedby="sign-in-text" aria-invalid={isWrong.value}
              onInput={(event) => {
                typed.value = event.currentTarget.value;
                isWrong.value = false;
              }} />
          </label>
          {isWrong.value && <p class="wrong" role="alert">{t.notAToken}</p>}
          <div class="buttons"><button class="primary">{t.signInButton}</button></div>
        </form>
      )}
      {failure.value && <p class="wrong" role="alert">{failure.value}</p>}
    </Modal>
  );
}
