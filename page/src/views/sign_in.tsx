import { useSignal } from "@preact/signals";
import { claimsOf, tokenIn } from "../claims.ts";
import { claims, decide, failure, goToIssuer, hasEnded, isNoToken, offered, refusal, settings, signIn } from "../session.ts";
import { text } from "../text/index.ts";
import { Modal } from "./modal.tsx";

/** The dialog for signing in, over the page. Only a sign-in closes it. */
export function SignIn() {
  const t = text.value;
  const typed = useSignal("");
  const oidc = settings.value?.oidc ?? null;
  const title = hasEnded.value && refusal.value === null ? t.endedTitle : t.signInTitle;
  return (
    <Modal title={title} kind="sign-in">
      {hasEnded.value && <p>{refusal.value === null ? t.endedText : t.refusedText(refusal.value)}</p>}
      {oidc !== null ? (
        <>
          {!hasEnded.value && <p>{t.signInOidc(settings.value?.tenant ?? "")}</p>}
          <div class="buttons"><button class="primary" autofocus onClick={() => void goToIssuer()}>{t.signInButton}</button></div>
        </>
      ) : (
        <form onSubmit={(event) => {
          event.preventDefault();
          const token = tokenIn(typed.value);
          isNoToken.value = token === null;
          if (token !== null) signIn(token);
        }}>
          <p id="sign-in-text">{t.signInText}</p>
          <label>{t.token}
            <input type="password" autocomplete="off" spellcheck={false} required autofocus value={typed.value} aria-describedby="sign-in-text" aria-invalid={isNoToken.value}
              onInput={(event) => {
                typed.value = event.currentTarget.value;
                isNoToken.value = false;
              }} />
          </label>
          {isNoToken.value && <p class="wrong" role="alert">{t.notAToken}</p>}
          <div class="buttons"><button class="primary">{t.signInButton}</button></div>
        </form>
      )}
      {failure.value && <p class="wrong" role="alert">{failure.value}</p>}
    </Modal>
  );
}

/** Asks before a link signs in somebody else. */
export function Offered() {
  const t = text.value;
  if (offered.value === null) return null;
  const { subject, tenant } = claimsOf(offered.value);
  const who = subject || t.somebody;
  const tenantNow = claims.value?.tenant ?? "";
  return (
    <Modal title={t.offeredTitle(who)} kind="sign-in" onClose={() => decide(false)}>
      <p>{t.offeredText(tenant === tenantNow ? who : t.ofTenant(who, tenant), claims.value?.subject || t.somebody)}</p>
      <div class="buttons">
        <button class="plain" onClick={() => decide(true)}>{t.offeredButton(who)}</button>
        <button class="primary" autofocus onClick={() => decide(false)}>{t.stay}</button>
      </div>
    </Modal>
  );
}
