// What an app does with the API, by the types of its document: node app.js BASE TOKEN
import createClient from 'openapi-fetch'
import type { components, paths } from './api.js'

declare const process: { argv: string[] }

type Media = components['schemas']['Media']
type Problem = components['schemas']['Problem']

const [, , baseUrl = '', token = ''] = process.argv
const api = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } })

/** The API takes a form; openapi-fetch would send JSON. */
function form(fields: Record<string, Blob | string | number | boolean | undefined>): FormData {
  const data = new FormData()
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) data.append(name, value, value instanceof File ? value.name : 'file')
    else if (value !== undefined) data.append(name, String(value))
  }
  return data
}

function found<T>(answer: { data?: T; error?: Problem }): T {
  if (answer.error !== undefined) throw new Error(`${answer.error.code}: ${answer.error.detail}`)
  return answer.data as T
}

const file = new File(['hello from TypeScript'], 'Grüße.txt', { type: 'text/plain' })
const uploaded: Media = found(
  await api.POST('/v1/media/upload', { body: { file, tenant_scope: true }, bodySerializer: form }),
).data

const names: string[] = []
let cursor: string | null = null
do {
  const page: components['schemas']['Page_MediaInfo_'] = found(
    await api.GET('/v1/media', {
      params: { query: { type: 'document', sort: '-created', limit: 1, ...(cursor === null ? {} : { cursor }) } },
    }),
  )
  names.push(...page.data.map((info) => info.filename))
  cursor = page.next_cursor
} while (cursor !== null)

const bytes: Blob = found(
  await api.GET('/v1/media/download/{media_id}', {
    params: { path: { media_id: uploaded.media_id } },
    parseAs: 'blob',
  }),
)
const [signed] = found(await api.POST('/v1/media/sign', { body: { media_ids: [uploaded.media_id], via: 'api' } })).data
const labelled = found(
  await api.PATCH('/v1/media/{media_id}', {
    params: { path: { media_id: uploaded.media_id } },
    body: { labels: { project: 'atlas' } },
  }),
).data
const refused = await api.GET('/v1/jobs/{job_id}', { params: { path: { job_id: 'job-0' } } })
const code: string | undefined = refused.error?.code

console.log(
  JSON.stringify({
    mediaId: uploaded.media_id,
    names,
    text: await bytes.text(),
    signed: signed?.url ?? signed?.error?.code,
    labels: labelled.labels,
    code,
  }),
)
