// What web apps send files with; `tests/browser` loads it as one module from an origin of its own.
import Uppy from '@uppy/core'
import Tus from '@uppy/tus'
import * as tus from 'tus-js-client'

Object.assign(globalThis, { Uppy, Tus, tus })
