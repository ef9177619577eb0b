/** The caller's jobs, and which of them has the transcript of a file. */
import { computed, signal } from "@preact/signals";
import * as api from "./api.ts";
import type { Job } from "./api.ts";

export const jobs = signal<Job[]>([]);
export const isUnderWay = (job: Job): boolean => job.status === "queued" || job.status === "running";
export const underWay = computed(() => jobs.value.filter(isUnderWay));

let onEnded: (job: Job) => void = () => {};
export const whenEnded = (call: (job: Job) => void): void => {
  onEnded = call;
};

export async function refresh(): Promise<void> {
  const { data: now } = await api.listJobs({ kind: "transcribe", limit: 50 });
  const before = new Map(jobs.value.map((job) => [job.job_id, job]));
  jobs.value = now;
  for (const job of now) {
    const old = before.get(job.job_id);
    if (old && isUnderWay(old) && !isUnderWay(job)) onEnded(job);
  }
}

export async function cancel(job: Job): Promise<void> {
  const now = await api.cancel(job.job_id);
  jobs.value = jobs.value.map((each) => (each.job_id === now.job_id ? now : each));
}

/** The newest job that has transcribed the file, or is to; null if there is none of yours. */
export async function jobOf(file: string): Promise<Job | null> {
  const { data } = await api.listJobs({ kind: "transcribe", media_id: file, limit: 200 });
  const newest = data[0] ?? null;
  return newest && isUnderWay(newest) ? newest : (data.find((job) => job.status === "completed") ?? newest);
}
