/** Camera and microphone: a photo, a film, or sound, uploaded when it is stopped. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { clock } from "../format.ts";
import { place } from "../place.ts";
import { text } from "../text/index.ts";
import * as uploads from "../uploads.ts";
import { Icon } from "./icons.tsx";
import { Modal } from "./modal.tsx";

export function Record({ onClose }: { onClose: () => void }) {
  const t = text.value;
  const source = useSignal<"camera" | "microphone">("camera");
  const stream = useSignal<MediaStream | null>(null);
  /** A camera's picture comes a moment after its stream; before, a photo has no size. */
  const hasPicture = useSignal(false);
  const isRefused = useSignal(false);
  const seconds = useSignal<number | null>(null);
  const video = useRef<HTMLVideoElement>(null);
  const recorder = useRef<MediaRecorder | null>(null);
  const room = useRef(place.value.room);

  useEffect(() => {
    let isOver = false;
    isRefused.value = false;
    const wanted = source.value === "camera" ? { video: { facingMode: "environment" }, audio: true } : { audio: true };
    // A machine with a camera alone still takes photos and silent films.
    const asked = navigator.mediaDevices?.getUserMedia(wanted).catch((error: unknown) => {
      if (source.value !== "camera") throw error;
      return navigator.mediaDevices.getUserMedia({ video: true });
    });
    (asked ?? Promise.reject(new Error())).then((found) => {
      if (isOver) return found.getTracks().forEach((track) => track.stop());
      stream.value = found;
      if (video.current) video.current.srcObject = found;
    }).catch(() => (isRefused.value = true));
    return () => {
      isOver = true;
      recorder.current = null;
      stream.value?.getTracks().forEach((track) => track.stop());
      stream.value = null;
      hasPicture.value = false;
    };
  }, [source.value]);

  useEffect(() => {
    if (seconds.value === null) return;
    const began = Date.now();
    const timer = setInterval(() => (seconds.value = (Date.now() - began) / 1000), 250);
    return () => clearInterval(timer);
  }, [seconds.value === null]);

  const send = (data: Blob, name: string): void => {
    const extension = /\/(?:x-)?(\w+)/.exec(data.type)?.[1] ?? "bin";
    const moment = new Date();
    const time = new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 19).replace("T", " ").replace(/:/g, ".");
    const type = data.type.split(";")[0]!;
    uploads.add([new File([data], `${name} ${time}.${extension === "jpeg" ? "jpg" : extension}`, { type })], room.current);
    onClose();
  };

  const photo = (): void => {
    const { videoWidth: width, videoHeight: height } = video.current!;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d")!.drawImage(video.current!, 0, 0);
    canvas.toBlob((data) => data && send(data, t.photoName), "image/jpeg", 0.92);
  };

  const record = (): void => {
    const parts: Blob[] = [];
    const now = new MediaRecorder(stream.value!);
    now.ondataavailable = (event) => parts.push(event.data);
    now.onstop = () => {
      // Closed without "stop": nothing is sent.
      if (recorder.current === now) send(new Blob(parts, { type: now.mimeType }), source.value === "camera" ? t.filmName : t.soundName);
    };
    recorder.current = now;
    now.start(1000);
    seconds.value = 0;
  };

  const isReady = stream.value !== null;
  return (
    <Modal title={t.recordTitle} kind="record" onClose={onClose}>
      <div class="segments" role="group" aria-label={t.record}>
        {(["camera", "microphone"] as const).map((each) => (
          <button key={each} type="button" aria-pressed={source.value === each} disabled={seconds.value !== null} onClick={() => (source.value = each)}>
            <Icon name={each} />{t[each]}</button>
        ))}
      </div>
      {isRefused.value ? <p class="wrong" role="alert">{t.noDevice}</p> : (
        <>
          {source.value === "camera"
            ? <video ref={video} class="camera" muted autoplay playsinline aria-label={t.camera} onLoadedData={() => (hasPicture.value = true)} />
            : <div class={seconds.value === null ? "microphone" : "microphone on"}><Icon name="microphone" /></div>}
          <p role="status" class="quiet-text">{seconds.value === null ? t.recordHint : t.recording(clock(seconds.value))}</p>
          <div class="buttons">
            {seconds.value !== null ? <button class="primary" onClick={() => recorder.current?.stop()}>{t.stop}</button> : (
              <>
                <button disabled={!isReady} class={source.value === "camera" ? "" : "primary"} onClick={record}>{source.value === "camera" ? t.startFilm : t.startSound}</button>
                {source.value === "camera" && <button class="primary" disabled={!hasPicture.value} onClick={photo}>{t.takePhoto}</button>}
              </>
            )}
          </div>
        </>
      )}
    </Modal>
  );
}
